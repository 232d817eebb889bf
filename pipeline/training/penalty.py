"""Quadratic penalties towards the start: L2-SP, and EWC with the importances of `fisher.py`.

    penalty = strength / 2 * sum_i F_i (w_i - w0_i)^2            L2-SP: F = 1;  EWC: F = Fisher information, diagonal

L2-SP: Li, Grandvalet, Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
section 3 (their alpha; all that is trained has been pretrained here, so their beta for new layers has no part).
EWC: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", equation 3.

w is what the model computes with. For weights that are trained themselves that is the weight. For LoRA it is
W + s B A, not A and B apart: where A starts at random and B at zero, pulling A back to its first numbers would tie the
adapter to a draw that means nothing to the model, and B G, G^-1 A is the same model at another price. With
D = s (B A - B0 A0), and F_oi = R_o C_i (ones, or the factors of `fisher.py`), all of it is products of rank r, and the
matrix D is never made:

    penalty = strength / 2 * sum_oi R_o C_i D_oi^2 = strength s^2 / 2 * trace(P Q),   P = B' R B,  Q = A C A'
    dA = strength s^2 P A C,    dB = strength s^2 R B Q

B0 A0 is zero but for starts such as PiSSA's; there B becomes [B, -B0] and A [A; A0], and the gradients of their upper
halves are taken. A DoRA adapter's magnitudes count as weights of their own.

The gradient is added once an optimiser step, when those of all micro-batches and ranks are summed up: the penalty does
not depend on the data, so it needs no share in either. It is part of what `train.clip` looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.run.errors import UserError


@dataclass(frozen=True)
class Product:
    """The change of one layer's weight by LoRA, s (B A - B0 A0), shape (out, in).

    a: (r, in). b: (out, r). start: (A0, B0), None where B0 A0 = 0. rows: R, (out,). columns: C, (in,); None: ones.
    """

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scale: float
    start: tuple[torch.Tensor, torch.Tensor] | None = None
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None

    def gradient_onto(self, strength: float) -> torch.Tensor:
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
class Single:
    """A tensor that is trained itself. start: w0. importance: F, of the same shape; None: ones."""

    weight: torch.nn.Parameter
    start: torch.Tensor
    importance: torch.Tensor | None = None

    def gradient_onto(self, strength: float) -> torch.Tensor:
        """As `Product.gradient_onto`."""
        change = self.weight.detach() - self.start
        slope = change if self.importance is None else change * self.importance
        _add(self.weight, slope, strength)
        return 0.5 * strength * (slope * change).sum()


def _add(weight: torch.nn.Parameter, slope: torch.Tensor, factor: float) -> None:
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    weight.grad.add_(slope.to(weight.grad.dtype), alpha=factor)


class Penalty:
    """One penalty over all that is trained. `parts`: by name, as `parts_of` gives them."""

    def __init__(self, parts: Mapping[str, Product | Single], strength: float) -> None:
        self.parts, self.strength = dict(parts), strength

    def gradient_onto(self) -> torch.Tensor:
        """Adds the gradient to `.grad` of every weight; returns the penalty, in nats, a scalar."""
        return torch.stack([part.gradient_onto(self.strength) for part in self.parts.values()]).sum()


def gradients_onto(penalties: list[Penalty]) -> dict[str, float]:
    """Adds the gradients of all; returns what metrics.jsonl says of them: nothing where there are none."""
    return {"penalty": float(sum(p.gradient_onto() for p in penalties))} if penalties else {}


def layers_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and module of every linear layer that peft gave LoRA's A and B."""
    for name, module in model.named_modules():
        pairs = getattr(module, "lora_A", None)
        if isinstance(pairs, torch.nn.ModuleDict) and "default" in pairs:
            yield name, module


def parts_of(model: Any, weights: Mapping[str, torch.nn.Parameter]) -> dict[str, Product | Single]:
    """What is trained, in the form in which it changes the model; the values it has now are its start.

    Args:
        weights: the trainable parameters by name, at the start of the run.
    """
    layers, alone = _split(model, weights)
    parts: dict[str, Product | Single] = {}
    for name, module in layers.items():
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        start = (a.detach().float().clone(), b.detach().float().clone()) if b.detach().any() else None
        parts[name] = Product(a, b, float(module.scaling["default"]), start)
    return parts | {name: Single(weight, weight.detach().clone()) for name, weight in alone.items()}


def kept_numbers(model: Any, weights: Mapping[str, torch.nn.Parameter], fisher: bool, started: bool) -> int:
    """How many float32 numbers the penalties hold on to beside the weights: starts, and with `fisher` importances.

    Args:
        model: may be without storage. started: whether LoRA's B A is anything but zero at the start.
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
    """The layers of which A and B are trained, and the weights that are trained themselves, by name.

    Raises:
        UserError: a LoRA over a mixture's experts, whose factors are stacked: B A is not the change of one matrix.
    """
    alone = {id(weight): name for name, weight in weights.items()}
    layers = {}
    for name, module in layers_of(model):
        pair = id(module.lora_A["default"].weight), id(module.lora_B["default"].weight)
        if type(module).__name__ == "ParamWrapper":
            what = f"l2_sp and ewc cannot hold a mixture's experts and routers, such as {name}"
            raise UserError(what, "adapter.targets", "name the layers of attention, or drop train.l2_sp and train.ewc")
        if all(one in alone for one in pair):
            layers[name] = module
            for one in pair:
                del alone[one]
    return layers, {name: weights[name] for name in alone.values()}
