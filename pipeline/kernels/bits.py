"""A frozen base in 4 or 8 bits, as bitsandbytes holds it: each product dequantises the stack it needs, into one place.

    nf4:  W = code[w] absmax of its block of 64    (Dettmers et al. 2023; the scales quantised once more)
    int8: W = w s / 127, s of each row             (Dettmers et al. 2022, without its rounding of activations)

The dequantised stack lives only as long as the product, or until the next one when that is announced (`hold`): a block
that is computed again needs the same weights for its way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.kernels.eight import Eight
from pipeline.kernels.frozen import Frozen


class Bits(Frozen):
    """Layers of bitsandbytes (Linear4bit, Linear8bitLt), left as they are."""

    def _hold(self, layers: Sequence[Any]) -> None:
        self.held: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        """W, (out, in)."""
        if self.held is not None:
            return self.held
        whole = torch.empty(sum(self.sizes), self.inputs, dtype=self.dtype, device=self.device)
        for layer, part in zip(self.layers, whole.split(self.sizes), strict=True):
            _dequantise(layer, part)
        return whole

    def hold(self) -> None:
        self.held = self.weight

    def backward(self, grad: torch.Tensor, small: Eight | None = None) -> torch.Tensor:
        dx = super().backward(grad)
        self.held = None
        return dx

    def extend(self, columns: int) -> int:
        return 0


def _dequantise(layer: Any, out: torch.Tensor) -> None:
    """W of a layer into `out`, (out, in)."""
    import bitsandbytes.functional as bits

    weight = layer.weight
    state = getattr(weight, "quant_state", None) or getattr(layer, "quant_state", None)
    if state is not None:
        if out.is_cuda and state.dtype == out.dtype and tuple(state.shape) == tuple(out.shape):
            bits.dequantize_4bit(weight.data, state, out=out)
        else:
            out.copy_(bits.dequantize_4bit(weight.data, state).view_as(out))
        return
    scale = weight.SCB if getattr(weight, "SCB", None) is not None else layer.state.SCB
    rows = weight.CB if getattr(weight, "CB", None) is not None else layer.state.CB
    torch.mul(rows if rows is not None else weight.data, scale[:, None].float() / 127, out=out)
