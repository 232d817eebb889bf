"""A frozen base in 8-bit floats (e4m3), one scale a row, as Hopper's matrix units take them.

    q(x) = e4m3(x / s),  s = max|x| / 448 of each row
    y  = (q(x) q(W)') s_x s_W'       W quantised by its rows (outputs)
    dx = (q(dy) q(W')') s_dy s_W''   W quantised by its columns (inputs)

W is quantised once, both ways; activations and gradients on the fly, row by row, so a token does not depend on which
others are in its pack. Adapters, norms, attention, embedding and head stay in bf16. The rounding is 2^-4 of a value:
what it costs is measured in docs/benchmarks.md. Off the GPU the same is computed in float32, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.kernels.frozen import Frozen

KIND = torch.float8_e4m3fn
MOST = 448.0  # the largest e4m3


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (rows, columns) -> e4m3 of the same shape, contiguous, and scales (rows, 1) in float32."""
    if x.is_cuda:
        from pipeline.kernels import gpu

        return gpu.quantise(x)
    wide = x.float()
    scale = (wide.abs().amax(1, keepdim=True) / MOST).clamp(min=1e-12)
    return (wide / scale).clamp(-MOST, MOST).to(KIND), scale


class Fp8(Frozen):
    """Weights in e4m3, by rows and by columns. The layers' own weights go; their stock forward multiplies with ours."""

    def _hold(self, layers: Sequence[Any]) -> None:
        with torch.no_grad():
            weight = torch.cat([layer.weight.detach().to(self.dtype) for layer in layers])
            self.rows, self.row_scale = quantise(weight)
            self.columns, self.column_scale = quantise(weight.t().contiguous())
        start = 0
        for layer, size in zip(layers, self.sizes, strict=True):
            layer.weight.data = weight.new_empty(0)
            layer.forward = self._stock(layer, slice(start, start + size))
            start += size

    def _stock(self, layer: Any, span: slice) -> Any:
        """What the layer does by itself, in held-out loss and answers: the same weights, activations as they are."""

        def forward(x: torch.Tensor) -> torch.Tensor:
            weight = self.rows[span].to(x.dtype) * self.row_scale[span].to(x.dtype)
            return F.linear(x, weight, layer.bias)

        return forward

    def extend(self, columns: int) -> int:
        return 0

    def forward(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        y = _product(*quantise(x), self.rows, self.row_scale, self.dtype)
        if self.bias is not None:
            y += self.bias
        return y if onto is None else y.add_(onto)

    def backward(self, grad: torch.Tensor) -> torch.Tensor:
        return _product(*quantise(grad), self.columns, self.column_scale, self.dtype)


def _product(
    x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """x weight' in `dtype`; x (tokens, in), weight (out, in), both e4m3, with scales (tokens, 1) and (out, 1)."""
    if x.is_cuda:
        made: torch.Tensor = torch._scaled_mm(
            x, weight.t(), scale_a=scale, scale_b=weight_scale.t(), out_dtype=dtype, use_fast_accum=True
        )
        return made
    return ((x.float() * scale) @ (weight.float() * weight_scale).t()).to(dtype)
