"""Triton kernel of rotary positions on CUDA; its plain twin, with the formula, is in rotary.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate_kernel(
    x, cos, sin, heads, half, x_row, x_head, SIGN: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (at < half)
    c = tl.load(cos + row * 2 * half + at, mask=at < half, other=0.0).to(tl.float32)
    s = tl.load(sin + row * 2 * half + at, mask=at < half, other=0.0).to(tl.float32) * SIGN
    first = x + row * x_row + head * x_head + at
    a = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(first + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(first, a * c - b * s, mask=inside)
    tl.store(first + half, b * c + a * s, mask=inside)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool) -> None:
    """As `rotary.rotate`. cos and sin repeat themselves after half a head, so half of them is read."""
    tokens, heads, size = x.shape
    cos, sin = cos.contiguous(), sin.contiguous()
    _rotate_kernel[(tokens,)](
        x, cos, sin, heads, size // 2, x.stride(0), x.stride(1), SIGN=-1.0 if back else 1.0,
        HEADS=triton.next_power_of_2(heads), HALF=triton.next_power_of_2(size // 2), num_warps=8 if heads > 16 else 4,
    )  # fmt: skip
