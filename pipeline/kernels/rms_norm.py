"""Root-mean-square norm (Zhang and Sennrich 2019).

r = 1 / sqrt(mean(x^2) + eps),  n = x r w
g = dn w,  dx = r (g - x r mean(g x r)) + gradient of the residual stream,  dw = sum of dn x r over the tokens
"""

from __future__ import annotations

import torch

from pipeline.kernels.card import runs_kernels
from pipeline.kernels.fp8_rows import quantize_rows
from pipeline.kernels.types import Fp8Rows


def forward(
    x: torch.Tensor, weight: torch.Tensor, eps: float, spare_columns: int = 0, fp8: bool = False
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:
    """x (tokens, size), weight (size,) -> n (tokens, size), r (tokens,) in float32, and with `fp8` also n quantized.

    spare_columns: unused columns allocated after each row of n, see `StackedLora`.
    """
    if runs_kernels(x):
        from pipeline.kernels import triton_rowwise

        return triton_rowwise.rms_norm(x, weight, eps, spare_columns, fp8)
    wide = x.float()
    r = torch.rsqrt(wide.pow(2).mean(-1) + eps)
    n = x.new_empty(len(x), x.shape[1] + spare_columns)[:, : x.shape[1]]
    n.copy_(wide * r[:, None] * weight.float())
    return n, r, quantize_rows(n) if fp8 else None


def backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, r: torch.Tensor, residual_grad: torch.Tensor | None,
    fp8: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:  # fmt: skip
    """dx (with `residual_grad` added; written over `grad` on CUDA), n recomputed, and with `fp8` also dx quantized."""
    if runs_kernels(x):
        from pipeline.kernels import triton_rowwise

        return triton_rowwise.rms_norm_backward(grad, x, weight, r, residual_grad, fp8)
    unit = x.float() * r[:, None]
    g = grad.float() * weight.float()
    dx = r[:, None] * (g - unit * (g * unit).mean(-1, keepdim=True))
    dx = (dx if residual_grad is None else dx + residual_grad.float()).to(x.dtype)
    return dx, (unit * weight.float()).to(x.dtype), quantize_rows(dx) if fp8 else None


def weight_gradient(grad: torch.Tensor, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """dw (size,) in float32; call it before `backward`, which overwrites `grad` on CUDA."""
    return (grad.float() * x).t() @ r
