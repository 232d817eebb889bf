"""Triton kernels that work on rows: norm, cross-entropy.

The formula and the plain version of each are in the file named after it (rms_norm.py, cross_entropy.py). Arithmetic is
in float32, also on 16-bit tensors. One program handles one token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.triton_fp8 import empty_fp8, fp8_pointers, store_fp8_row
from pipeline.kernels.types import Fp8Rows


def _block(size: int) -> tuple[int, int]:
    """A power of two that holds a whole row, and warps for it."""
    block = int(triton.next_power_of_2(size))
    return block, min(16, max(1, block // 512))


# --- norm


@triton.jit
def _norm_kernel(x, w, n, r, q, scales, size, eps, x_row, n_row, WITH_FP8: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    wide = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    root = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    weight = tl.load(w + column, mask=inside, other=0.0).to(tl.float32)
    value = wide * root * weight
    tl.store(n + row * n_row + column, value, mask=inside)
    tl.store(r + row, root)
    if WITH_FP8:
        store_fp8_row(value, column, inside, q + row * size, scales + row)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, spare_columns: int, fp8: bool
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:
    """As `rms_norm.forward`."""
    tokens, size = x.shape
    n = torch.empty((tokens, size + spare_columns), dtype=x.dtype, device=x.device)[:, :size]
    r = torch.empty(tokens, dtype=torch.float32, device=x.device)
    block, warps = _block(size)
    quantized = empty_fp8(tokens, size, x, fp8)
    _norm_kernel[(tokens,)](
        x, weight, n, r, *fp8_pointers(quantized, r), size, eps, x.stride(0), n.stride(0),
        WITH_FP8=fp8, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return n, r, quantized


@triton.jit
def _norm_backward_kernel(
    dn, x, w, r, residual_grad, dx, n, q, scales, size, WITH_RESIDUAL: tl.constexpr, WITH_FP8: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    root = tl.load(r + row)
    unit = tl.load(x + row * size + column, mask=inside, other=0.0).to(tl.float32) * root
    weight = tl.load(w + column, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(dn + row * size + column, mask=inside, other=0.0).to(tl.float32) * weight
    dx_row = root * (g - unit * (tl.sum(g * unit, 0) / size))
    if WITH_RESIDUAL:
        dx_row += tl.load(residual_grad + row * size + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + row * size + column, dx_row, mask=inside)
    tl.store(n + row * size + column, unit * weight, mask=inside)
    if WITH_FP8:
        store_fp8_row(dx_row, column, inside, q + row * size, scales + row)


def rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, r: torch.Tensor, residual_grad: torch.Tensor | None,
    fp8: bool,
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:  # fmt: skip
    """As `rms_norm.backward`; dx is written over `grad`."""
    x = x.contiguous()
    tokens, size = x.shape
    n = torch.empty_like(x)
    block, warps = _block(size)
    quantized = empty_fp8(tokens, size, x, fp8)
    _norm_backward_kernel[(tokens,)](
        grad, x, weight, r, grad if residual_grad is None else residual_grad, grad, n, *fp8_pointers(quantized, r),
        size, WITH_RESIDUAL=residual_grad is not None, WITH_FP8=fp8, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return grad, n, quantized


# --- cross-entropy


@triton.jit
def _loss_kernel(
    z, targets, weights, losses, scale, WITH_SCALE: tl.constexpr, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    z += row * VOCABULARY
    target = tl.load(targets + row)
    weight = tl.load(weights + row)
    # Read here: after the last reduction warps are not synchronized, and another one may already have overwritten it.
    target_logit = tl.load(z + target).to(tl.float32)
    maximum = -float("inf")
    total = 0.0
    for start in range(0, VOCABULARY, BLOCK):  # softmax in one pass (Milakov and Gimelshein 2018)
        column = start + tl.arange(0, BLOCK)
        part = tl.load(z + column, mask=column < VOCABULARY, other=-float("inf")).to(tl.float32)
        new = tl.maximum(maximum, tl.max(part, 0))
        total = total * tl.exp(maximum - new) + tl.sum(tl.exp(part - new), 0)
        maximum = new
    log_sum = maximum + tl.log(total)
    tl.store(losses + row, weight * (log_sum - target_logit))
    if WITH_SCALE:
        weight *= tl.load(scale)
    for start in range(0, VOCABULARY, BLOCK):
        column = start + tl.arange(0, BLOCK)
        part = tl.load(z + column, mask=column < VOCABULARY, other=-float("inf")).to(tl.float32)
        slope = tl.exp(part - log_sum) - tl.where(column == target, 1.0, 0.0)
        tl.store(z + column, slope * weight, mask=column < VOCABULARY)


def loss_and_gradient(
    z: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """As `cross_entropy.loss_and_gradient`."""
    losses = torch.empty(len(z), dtype=torch.float32, device=z.device)
    _loss_kernel[(len(z),)](
        z, targets, weights, losses, weights if scale is None else scale,
        WITH_SCALE=scale is not None, VOCABULARY=z.shape[1], BLOCK=4096, num_warps=8,
    )  # fmt: skip
    return losses.sum()
