"""Small stacks of frozen layers with adapters, and the textbook formula."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.kernels.adapter_copies import AdapterCopies
from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.kernels.lora import LoraAdapter, StackedLora
from pipeline.kernels.types import DropoutSeed


def layers(biases: Sequence[bool], sizes: Sequence[int] = (6, 4, 5), inputs: int = 10) -> list[torch.nn.Linear]:
    made = [torch.nn.Linear(inputs, n, bias=b, dtype=torch.float64) for n, b in zip(sizes, biases, strict=True)]
    return [layer.requires_grad_(False) for layer in made]


def lora_adapter(rank: int, outputs: int, scale: float, dropout: float = 0.0, inputs: int = 10) -> LoraAdapter:
    a, b = (torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((rank, inputs), (outputs, rank)))
    return LoraAdapter(a, b, scale, dropout)


def stacked(
    frozen: Sequence[torch.nn.Linear], adapters: Sequence[LoraAdapter | None], spare: bool = False
) -> StackedLora:
    linear = StackedLora(FrozenWeights(frozen, torch.float64), adapters, spare)
    AdapterCopies(linear.copies()).refresh()
    return linear


def textbook(
    x: torch.Tensor, frozen: Sequence[torch.nn.Linear], adapters: Sequence[LoraAdapter | None]
) -> torch.Tensor:
    return torch.cat(
        [
            layer(x) if a is None else layer(x) + a.scale * (x @ a.a.t()) @ a.b.t()
            for layer, a in zip(frozen, adapters, strict=True)
        ],
        dim=-1,
    )


def wanted_of(y: torch.Tensor, x: torch.Tensor, linear: StackedLora, grad: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of x and of the adapters, by autograd."""
    return list(torch.autograd.grad(y, [x, *linear.parameters], grad))


def dropping(share: float) -> tuple[StackedLora, torch.Tensor, torch.Tensor]:
    frozen = layers([False, True, False])
    adapters = [lora_adapter(3, 6, 2.0, share), None, lora_adapter(2, 5, 1.0, share / 2)]
    x, grad = torch.randn(7, 10, dtype=torch.float64), torch.randn(7, 15, dtype=torch.float64)
    return stacked(frozen, adapters), x, grad


def of(seed: int) -> DropoutSeed:
    return DropoutSeed(torch.tensor([seed]))
