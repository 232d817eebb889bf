"""Frozen weights of linear layers with one input, stacked: W (out, in), in whatever form they are held.

forward   y = x W' + bias (+ what the product is added to)
backward  dx = dy W
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.kernels.eight import Eight


class Frozen:
    """Weights in the arithmetic's own type. The layers' own become views of the stack: nothing is held twice.

    eight: whether products take their input in 8 bits (`small`), and are spared making that when they get it.
    """

    eight = False

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype) -> None:
        self.dtype, self.device = dtype, layers[0].weight.device
        self.inputs = int(layers[0].in_features)
        self.sizes = [int(layer.out_features) for layer in layers]
        self.bias = _bias(layers, dtype)
        self.layers = layers
        self._hold(layers)

    def _hold(self, layers: Sequence[Any]) -> None:
        with torch.no_grad():
            if len(layers) == 1 and layers[0].weight.dtype == self.dtype:
                self.weight = layers[0].weight.detach()
                return
            self.weight = torch.cat([layer.weight.detach().to(self.dtype) for layer in layers])
            self._share()

    def _share(self) -> None:
        for layer, part in zip(self.layers, self.weight.split(self.sizes), strict=True):
            if layer.weight.dtype == self.dtype:
                layer.weight.data = part

    def extend(self, columns: int) -> int:
        """Leaves columns behind W, in `wide` (out, in + columns); how many there are, 0 where that cannot be."""
        with torch.no_grad():
            self.wide = self.weight.new_zeros(len(self.weight), self.inputs + columns)
            self.wide[:, : self.inputs] = self.weight
            self.weight = self.wide[:, : self.inputs]
            self._share()
        return columns

    def forward_wide(self, x: torch.Tensor) -> torch.Tensor:
        """The product with `wide`, for x (tokens, in) with as many columns in use behind each row."""
        return self._product(x.as_strided((len(x), self.wide.shape[1]), x.stride()), self.wide.t(), None)

    def hold(self) -> None:
        """Says that a backward product follows the next forward one; matters where W must be made first."""

    def forward(self, x: torch.Tensor, onto: torch.Tensor | None = None, small: Eight | None = None) -> torch.Tensor:
        """x (tokens, in) -> (tokens, out), a new tensor."""
        return self._product(x, self.weight.t(), onto)

    def backward(self, grad: torch.Tensor, small: Eight | None = None) -> torch.Tensor:
        """grad (tokens, out) -> (tokens, in)."""
        return grad @ self.weight

    def _product(self, x: torch.Tensor, weight: torch.Tensor, onto: torch.Tensor | None) -> torch.Tensor:
        if onto is not None:
            y = torch.addmm(onto, x, weight)
            return y if self.bias is None else y.add_(self.bias)
        return x @ weight if self.bias is None else torch.addmm(self.bias, x, weight)


def _bias(layers: Sequence[Any], dtype: torch.dtype) -> torch.Tensor | None:
    """Biases one behind the other, zeros for layers without; None when there is none."""
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.weight.new_zeros(layer.out_features, dtype=dtype) if layer.bias is None else layer.bias.detach().to(dtype)
        for layer in layers
    ]
    return torch.cat(parts)
