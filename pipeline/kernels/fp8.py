"""A frozen base in 8-bit floats (e4m3), one scale a row, as Hopper's matrix units take them.

    y  = (q(x) q(W)') s_x s_W'       W quantised by its rows (outputs)
    dx = (q(dy) q(W')') s_dy s_W''   W quantised by its columns (inputs)

q and its scales are in eight.py. W is quantised once, both ways; activations and gradients on the fly, by the kernel
that makes them where that sees whole rows. Each token has its own scale, so it does not depend on which others are in
its pack. Adapters, norms, attention, embedding and head stay in bf16. The rounding is 2^-4 of a value: what it costs is
measured in docs/benchmarks.md. Off the GPU the same is computed in float32, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.kernels.eight import Eight, quantise
from pipeline.kernels.frozen import Frozen


class Fp8(Frozen):
    """Weights in e4m3, by rows and by columns. The layers' own weights go; their stock forward multiplies with ours."""

    eight = True

    def _hold(self, layers: Sequence[Any]) -> None:
        with torch.no_grad():
            weight = torch.cat([layer.weight.detach().to(self.dtype) for layer in layers])
            self.rows = quantise(weight)
            self.columns = quantise(weight.t().contiguous())
        start = 0
        for layer, size in zip(layers, self.sizes, strict=True):
            layer.weight.data = weight.new_empty(0)
            layer.forward = self._stock(layer, slice(start, start + size))
            start += size

    def _stock(self, layer: Any, span: slice) -> Any:
        """What the layer does by itself, in held-out loss and answers: the same weights, activations as they are."""

        def forward(x: torch.Tensor) -> torch.Tensor:
            weight = self.rows.values[span].to(x.dtype) * self.rows.scales[span].to(x.dtype)
            return F.linear(x, weight, layer.bias)

        return forward

    def extend(self, columns: int) -> int:
        return 0

    def forward(self, x: torch.Tensor, onto: torch.Tensor | None = None, small: Eight | None = None) -> torch.Tensor:
        y = _product(small or quantise(x), self.rows, self.dtype)
        if self.bias is not None:
            y += self.bias
        return y if onto is None else y.add_(onto)

    def backward(self, grad: torch.Tensor, small: Eight | None = None) -> torch.Tensor:
        return _product(small or quantise(grad), self.columns, self.dtype)


def _product(x: Eight, weight: Eight, dtype: torch.dtype) -> torch.Tensor:
    """x weight' in `dtype`; x (tokens, in), weight (out, in)."""
    if x.values.is_cuda:
        made: torch.Tensor = torch._scaled_mm(
            x.values, weight.values.t(), scale_a=x.scales, scale_b=weight.scales.t(), out_dtype=dtype,
            use_fast_accum=True,
        )  # fmt: skip
        return made
    return (x.numbers() @ weight.numbers().t()).to(dtype)
