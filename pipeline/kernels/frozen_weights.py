"""Frozen weights of linear layers with one input, stacked: W (out, in). Base class: W in the compute dtype.

    forward   y = x W' + bias (+ what the product is added to)
    backward  dx = dy W

quantized_weights.py has W in 4 or 8 bits, fp8_weights.py in 8-bit floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.kernels.types import Fp8Rows


class FrozenWeights:
    """Weights in the compute dtype. The layers' own weights become views of the stack, so memory is not doubled.

    takes_fp8: whether products quantize their input to 8 bits; a caller that has it quantized passes it along.
    """

    takes_fp8 = False

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype) -> None:
        self.dtype, self.device = dtype, layers[0].weight.device
        self.inputs = int(layers[0].in_features)
        self.sizes = [int(layer.out_features) for layer in layers]
        self.bias = _stacked_bias(layers, dtype)
        self.layers = layers
        self._stack(layers)

    def _stack(self, layers: Sequence[Any]) -> None:
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

    def append_columns(self, columns: int) -> int:
        """Makes W a view of `extended` (out, in + columns), the new columns zero. Returns how many there are: 0 if this
        kind of weights does not support it."""
        with torch.no_grad():
            self.extended = self.weight.new_zeros(len(self.weight), self.inputs + columns)
            self.extended[:, : self.inputs] = self.weight
            self.weight = self.extended[:, : self.inputs]
            self._share()
        return columns

    def forward_extended(self, x: torch.Tensor) -> torch.Tensor:
        """x (tokens, in + columns) -> (tokens, out)."""
        return self._product(x, self.extended.t(), None)

    def keep_for_backward(self) -> None:
        """Announces that a backward product follows the next forward one, for weights that must be dequantized."""

    def forward(
        self, x: torch.Tensor, add_to: torch.Tensor | None = None, x_fp8: Fp8Rows | None = None
    ) -> torch.Tensor:
        """x (tokens, in) -> (tokens, out), a new tensor."""
        return self._product(x, self.weight.t(), add_to)

    def backward(self, grad: torch.Tensor, grad_fp8: Fp8Rows | None = None) -> torch.Tensor:
        """grad (tokens, out) -> (tokens, in)."""
        return grad @ self.weight

    def _product(self, x: torch.Tensor, weight: torch.Tensor, add_to: torch.Tensor | None) -> torch.Tensor:
        if add_to is not None:
            y = torch.addmm(add_to, x, weight)
            return y if self.bias is None else y.add_(self.bias)
        return x @ weight if self.bias is None else torch.addmm(self.bias, x, weight)


def _stacked_bias(layers: Sequence[Any], dtype: torch.dtype) -> torch.Tensor | None:
    """The biases concatenated, zeros for layers without; None if no layer has one."""
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.weight.new_zeros(layer.out_features, dtype=dtype) if layer.bias is None else layer.bias.detach().to(dtype)
        for layer in layers
    ]
    return torch.cat(parts)
