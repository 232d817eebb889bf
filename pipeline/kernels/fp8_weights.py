"""Frozen weights in 8-bit floats (e4m3), one scale a row, as the matrix units of Hopper take them.

    y  = (q(x) q(W)') s_x s_W'       W quantized by its rows (outputs)
    dx = (q(dy) q(W')') s_dy s_W''   W quantized by its columns (inputs)

q and the scales: fp8_rows.py. W is quantized once, both ways; activations and gradients on the fly, by the kernel that
computes them if it sees whole rows. Each token has its own scale, so it does not depend on the rest of its pack.
Adapters, norms, attention, embedding and head stay in bf16. Rounding is 2^-4 of a value; docs/benchmarks.md has what it
costs. On CPUs the same is computed in float32, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.kernels.fp8_rows import quantize_rows
from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.kernels.types import Fp8Rows


class Fp8Weights(FrozenWeights):
    """W in e4m3, by rows and by columns. The layers' own weights are freed; their stock forward uses these."""

    takes_fp8 = True

    def _stack(self, layers: Sequence[Any]) -> None:
        with torch.no_grad():
            weight = torch.cat([layer.weight.detach().to(self.dtype) for layer in layers])
            self.rows = quantize_rows(weight)
            self.columns = quantize_rows(weight.t().contiguous())
        start = 0
        for layer, size in zip(layers, self.sizes, strict=True):
            layer.weight.data = weight.new_empty(0)
            layer.forward = self._stock_forward(layer, slice(start, start + size))
            start += size

    def _stock_forward(self, layer: Any, outputs: slice) -> Any:
        """The layer's forward outside training (held-out loss, generation): these weights, activations unquantized."""

        def forward(x: torch.Tensor) -> torch.Tensor:
            weight = self.rows.values[outputs].to(x.dtype) * self.rows.scales[outputs].to(x.dtype)
            return F.linear(x, weight, layer.bias)

        return forward

    def append_columns(self, columns: int) -> int:
        return 0

    def forward(
        self, x: torch.Tensor, add_to: torch.Tensor | None = None, x_fp8: Fp8Rows | None = None
    ) -> torch.Tensor:
        y = _fp8_product(x_fp8 or quantize_rows(x), self.rows, self.dtype)
        if self.bias is not None:
            y += self.bias
        return y if add_to is None else y.add_(add_to)

    def backward(self, grad: torch.Tensor, grad_fp8: Fp8Rows | None = None) -> torch.Tensor:
        return _fp8_product(grad_fp8 or quantize_rows(grad), self.columns, self.dtype)


def _fp8_product(x: Fp8Rows, weight: Fp8Rows, dtype: torch.dtype) -> torch.Tensor:
    """x weight' in `dtype`; x (tokens, in), weight (out, in)."""
    if x.values.is_cuda:
        y: torch.Tensor = torch._scaled_mm(
            x.values, weight.values.t(), scale_a=x.scales, scale_b=weight.scales.t(), out_dtype=dtype,
            use_fast_accum=True,
        )  # fmt: skip
        return y
    return (x.dequantize() @ weight.dequantize().t()).to(dtype)
