"""Several LoRA adapters on one linear layer, each row of a batch with its own or with none.

    rows      0: none     1: one            2: two
    base      W x0        W x1              W x2                     one product for all rows
    adapters            + s1 B1 (A1 x1)   + s2 B2 (A2 x2)            A1, A2 stacked: one product, then a mask

    A  (rank 1 + rank 2 + ..., inputs)     B  (outputs, rank 1 + rank 2 + ...), scaled
    z = A x, masked to the columns of the row's adapter;  y = W x + B z

So a batch that mixes adapters costs two small products a layer, for any number of adapters. peft's mixed batch
computes the same with a loop over the adapters of each layer (tests compare the two).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.model.causal_lm import causal_lm_of

Part = tuple[torch.Tensor, torch.Tensor]  # A (rank, inputs); B (outputs, rank) times the adapter's scale


class RowAdapters:
    """Which adapter each row of the next pass uses; shared by all layers.

    Attributes:
        active: adapters in this pass, sorted; empty: none. mask: (rows, 1, adapters) one where a row uses an adapter;
            None where all rows use the same.
    """

    def __init__(self, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self.count, self.device, self.dtype = count, device, dtype
        self.active: tuple[int, ...] = ()
        self.mask: torch.Tensor | None = None

    def select(self, adapters: Sequence[int | None]) -> None:
        """adapters: of each row of the next pass."""
        self.active = tuple(sorted({adapter for adapter in adapters if adapter is not None}))
        self.mask = None
        if self.active and len(set(adapters)) > 1:
            self.mask = self.mask_of(adapters)

    def mask_of(self, adapters: Sequence[int | None]) -> torch.Tensor:
        """(rows, 1, adapters)."""
        rows = [[float(adapter == number) for number in range(self.count)] for adapter in adapters]
        return torch.tensor(rows, dtype=self.dtype, device=self.device)[:, None]

    def select_all(self, mask: torch.Tensor) -> None:
        """Every adapter is active; the mask's values may change between passes, as in a CUDA graph."""
        self.active, self.mask = tuple(range(self.count)), mask


@dataclass
class _Stack:
    """adapters: their numbers. owner: (columns,) the adapter of each column of A and B."""

    adapters: tuple[int, ...]
    a: torch.Tensor
    b: torch.Tensor
    owner: torch.Tensor


class MixedLinear(torch.nn.Module):
    """A linear layer of a base with the parts of all adapters that adapt it."""

    def __init__(self, base: torch.nn.Module, parts: dict[int, Part], rows: RowAdapters) -> None:
        super().__init__()
        self.base = base
        self.parts, self.rows = parts, rows
        self._stack: _Stack | None = None  # of the adapters of the last pass
        self._whole: _Stack | None = None  # of all; it stays where it is, for CUDA graphs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, tokens, inputs)."""
        y: torch.Tensor = self.base(x)
        change = self.change(x)
        return y if change is None else y + change

    def change(self, x: torch.Tensor) -> torch.Tensor | None:
        """What the adapters add to the base's output; None where no row is adapted here."""
        rows = self.rows
        active = tuple(adapter for adapter in rows.active if adapter in self.parts)
        if not active:
            return None
        stack = self._stack_of(active)
        z = torch.nn.functional.linear(x.to(stack.a.dtype), stack.a)
        if rows.mask is not None:
            z = z * rows.mask[:, :, stack.owner]
        return torch.nn.functional.linear(z, stack.b).to(x.dtype)

    def _stack_of(self, active: tuple[int, ...]) -> _Stack:
        if len(active) == len(self.parts):
            self._whole = self._whole or self._stacked(active)
            return self._whole
        if self._stack is None or self._stack.adapters != active:
            self._stack = self._stacked(active)
        return self._stack

    def _stacked(self, active: tuple[int, ...]) -> _Stack:
        parts = [self.parts[adapter] for adapter in active]
        if len(parts) == 1:  # no copy
            a, b = parts[0]
        else:
            a, b = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], dim=1)
        owner = [adapter for adapter, part in zip(active, parts, strict=True) for _ in range(len(part[0]))]
        return _Stack(active, a, b, torch.tensor(owner, device=a.device))


def take_parts(model: Any, name: str, dtype: torch.dtype) -> dict[str, Part]:
    """The LoRA parts of one adapter, by the names of the layers in the base.

    Args:
        model: a PeftModel. name: peft's name of the adapter.

    Raises:
        ValueError: a layer is adapted in another way than by A, B and a scale.
    """
    from peft.tuners.lora import Linear, LoraLayer

    parts = {}
    for place, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer) or (name not in layer.lora_A and name not in layer.lora_embedding_A):
            continue
        plain = isinstance(layer, Linear) or type(layer).__name__ in ("Linear8bitLt", "Linear4bit")
        if not plain or name not in layer.lora_A or layer.use_dora.get(name) or layer.lora_B[name].bias is not None:
            raise ValueError(f"its layer {place} is not a plain LoRA")
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        parts[place] = (a.detach().to(dtype), (b.detach() * layer.scaling[name]).to(dtype))
    return parts


def without_lora(model: Any) -> Any:
    """Puts the base's own layers back in place of peft's; returns the base. model: a base or a PeftModel."""
    from peft.tuners.lora import LoraLayer

    base = causal_lm_of(model)
    for place, layer in list(base.named_modules()):
        if isinstance(layer, LoraLayer):
            _put(base, place, layer.base_layer)
    vars(base).pop("peft_config", None)  # peft would warn of a second adapter
    return base


def mix(base: Any, adapters: Sequence[dict[str, Part]]) -> RowAdapters:
    """Replaces the base's adapted layers by `MixedLinear`; the i-th of the adapters has number i."""
    weight = next(p for p in base.parameters() if p.is_floating_point())
    rows = RowAdapters(len(adapters), weight.device, weight.dtype)
    for place in sorted({place for parts in adapters for place in parts}):
        of_place = {number: parts[place] for number, parts in enumerate(adapters) if place in parts}
        _put(base, place, MixedLinear(base.get_submodule(place), of_place, rows))
    return rows


def _put(model: Any, place: str, layer: torch.nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
