"""Frozen weights in 4 or 8 bits, as bitsandbytes stores them; each product dequantizes its stack.

    nf4:  W = code[w] absmax of its block of 64    (Dettmers et al. 2023; the scales quantized once more)
    int8: W = w s / 127, s of each row             (Dettmers et al. 2022, without its rounding of activations)

The dequantized stack is freed after the product, or after the backward product if that is announced
(`keep_for_backward`): a block that is recomputed needs the same weights for its backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.kernels.types import Fp8Rows


class QuantizedWeights(FrozenWeights):
    """Layers of bitsandbytes (Linear4bit, Linear8bitLt), left as they are."""

    def _stack(self, layers: Sequence[Any]) -> None:
        self.dequantized: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        """W, (out, in)."""
        if self.dequantized is not None:
            return self.dequantized
        weight = torch.empty(sum(self.sizes), self.inputs, dtype=self.dtype, device=self.device)
        for layer, part in zip(self.layers, weight.split(self.sizes), strict=True):
            _dequantize(layer, part)
        return weight

    def keep_for_backward(self) -> None:
        self.dequantized = self.weight

    def backward(self, grad: torch.Tensor, grad_fp8: Fp8Rows | None = None) -> torch.Tensor:
        dx = super().backward(grad)
        self.dequantized = None
        return dx

    def append_columns(self, columns: int) -> int:
        return 0


def _dequantize(layer: Any, out: torch.Tensor) -> None:
    """W of a layer into `out`, (out, in)."""
    import bitsandbytes.functional as bnb

    weight = layer.weight
    state = getattr(weight, "quant_state", None) or getattr(layer, "quant_state", None)
    if state is not None:
        if out.is_cuda and state.dtype == out.dtype and tuple(state.shape) == tuple(out.shape):
            bnb.dequantize_4bit(weight.data, state, out=out)
        else:
            out.copy_(bnb.dequantize_4bit(weight.data, state).view_as(out))
        return
    scale = weight.SCB if getattr(weight, "SCB", None) is not None else layer.state.SCB
    rows = weight.CB if getattr(weight, "CB", None) is not None else layer.state.CB
    torch.mul(rows if rows is not None else weight.data, scale[:, None].float() / 127, out=out)
