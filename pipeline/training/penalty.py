"""Quadratic penalties towards the start: L2-SP, and EWC with the importances of `ewc.py`.

    penalty = strength / 2 * sum_i F_i (w_i - w0_i)^2            L2-SP: F = 1;  EWC: F = Fisher information, diagonal

L2-SP: Li, Grandvalet, Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
section 3 (their alpha; their beta is for new layers, and all weights here are pretrained).
EWC: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", equation 3.

w is what the model computes with: a trained weight itself, and for LoRA W + s B A. A and B are not penalised
separately: A starts at random and B at zero, so A's start has no meaning for the model, and (B G, G^-1 A) is the same
model with another penalty. With D = s (B A - B0 A0) and F_oi = R_o C_i (ones, or the factors of `ewc.py`) all terms are
products of rank r, and the matrix D is never computed:

    penalty = strength / 2 * sum_oi R_o C_i D_oi^2 = strength s^2 / 2 * trace(P Q),   P = B' R B,  Q = A C A'
    dA = strength s^2 P A C,    dB = strength s^2 R B Q

B0 A0 is zero except for starts such as PiSSA's; then B becomes [B, -B0] and A [A; A0], and only the gradients of B and
A are used. Magnitudes of a DoRA adapter are trained weights themselves.

The penalty does not depend on the data, so its gradient is added once per optimiser step, after those of all
micro-batches and ranks were summed, and before `train.clip`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.model.sharded import whole
from pipeline.run.errors import UserError


@dataclass(frozen=True)
class LoraTerm:
    """Penalty on the change of one layer's weight by LoRA, s (B A - B0 A0), shape (out, in).

    a: (r, in). b: (out, r). start: (A0, B0), None if B0 A0 = 0. rows: R, (out,). columns: C, (in,); None: ones.
    """

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scale: float
    start: tuple[torch.Tensor, torch.Tensor] | None = None
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None

    def add_gradient(self, strength: float) -> torch.Tensor:
        """Adds the penalty's gradient to those of a and b; returns the penalty, a scalar."""
        a, b, rank = self.a.detach().float(), self.b.detach().float(), self.a.shape[0]
        if self.start is not None:
            a, b = torch.cat([a, self.start[0]]), torch.cat([b, -self.start[1]], dim=1)
        weighted_a = a if self.columns is None else a * self.columns
        weighted_b = b if self.rows is None else b * self.rows[:, None]
        p, q = b.t() @ weighted_b, weighted_a @ a.t()
        factor = strength * self.scale**2
        _add(self.a, p[:rank] @ weighted_a, factor)
        _add(self.b, weighted_b @ q[:, :rank], factor)
        return 0.5 * factor * (p * q.t()).sum()


@dataclass(frozen=True)
class WeightTerm:
    """Penalty on the change of a trained tensor. start: w0. importance: F, of the same shape; None: ones."""

    weight: torch.nn.Parameter
    start: torch.Tensor
    importance: torch.Tensor | None = None

    def add_gradient(self, strength: float) -> torch.Tensor:
        """As `LoraTerm.add_gradient`."""
        change = self.weight.detach() - self.start
        slope = change if self.importance is None else change * self.importance
        _add(self.weight, slope, strength)
        return 0.5 * strength * whole((slope * change).sum())


def _add(weight: torch.nn.Parameter, slope: torch.Tensor, factor: float) -> None:
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    weight.grad.add_(slope.to(weight.grad.dtype), alpha=factor)


class Penalty:
    """The sum of the terms of all trained weights. terms: by name, see `terms_of`."""

    def __init__(self, terms: Mapping[str, LoraTerm | WeightTerm], strength: float) -> None:
        self.terms, self.strength = dict(terms), strength

    def add_gradient(self) -> torch.Tensor:
        """Adds the gradient to `.grad` of every weight; returns the penalty, in nats, a scalar."""
        return torch.stack([term.add_gradient(self.strength) for term in self.terms.values()]).sum()


def add_gradients(penalties: list[Penalty]) -> dict[str, float]:
    """Adds the gradients of all penalties; returns their sum for metrics.jsonl, or nothing without penalties."""
    return {"penalty": float(sum(p.add_gradient() for p in penalties))} if penalties else {}


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and module of every linear layer with LoRA."""
    for name, module in model.named_modules():
        pairs = getattr(module, "lora_A", None)
        if isinstance(pairs, torch.nn.ModuleDict) and "default" in pairs:
            yield name, module


def terms_of(model: Any, weights: Mapping[str, torch.nn.Parameter]) -> dict[str, LoraTerm | WeightTerm]:
    """The terms of all trained weights, by name; their present values are the start.

    Args:
        weights: trained parameters by name, at the start of the run.
    """
    layers, alone = _split(model, weights)
    terms: dict[str, LoraTerm | WeightTerm] = {}
    for name, module in layers.items():
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        start = (a.detach().float().clone(), b.detach().float().clone()) if b.detach().any() else None
        terms[name] = LoraTerm(a, b, float(module.scaling["default"]), start)
    return terms | {name: WeightTerm(weight, weight.detach().clone()) for name, weight in alone.items()}


def kept_numbers(model: Any, weights: Mapping[str, torch.nn.Parameter], fisher: bool, started: bool) -> int:
    """How many float32 numbers the penalties keep: starts, and with `fisher` importances.

    Args:
        model: may be without storage. started: whether LoRA's B A is not zero at the start.
    """
    layers, alone = _split(model, weights)
    total = sum(weight.numel() for weight in alone.values()) * (2 if fisher else 1)
    for module in layers.values():
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        total += (a.numel() + b.numel()) * started + (b.shape[0] + a.shape[1]) * fisher
    return total


def _split(
    model: Any, weights: Mapping[str, torch.nn.Parameter]
) -> tuple[dict[str, Any], dict[str, torch.nn.Parameter]]:
    """The layers with trained A and B, and the other trained weights, by name.

    Raises:
        UserError: LoRA over a mixture's experts, whose factors are stacked: B A is not the change of one matrix.
    """
    alone = {id(weight): name for name, weight in weights.items()}
    layers = {}
    for name, module in lora_layers(model):
        pair = id(module.lora_A["default"].weight), id(module.lora_B["default"].weight)
        if type(module).__name__ == "ParamWrapper":
            what = f"l2_sp and ewc do not support a mixture's experts and routers, such as {name}"
            raise UserError(what, "adapter.targets", "name the layers of attention, or drop train.l2_sp and train.ewc")
        if all(one in alone for one in pair):
            layers[name] = module
            for one in pair:
                del alone[one]
    return layers, {name: weights[name] for name in alone.values()}
