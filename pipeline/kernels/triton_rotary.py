"""Triton kernel of rotary positions; the formula and the plain version are in rotary.py."""

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
    column = tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (column < half)
    c = tl.load(cos + row * 2 * half + column, mask=column < half, other=0.0).to(tl.float32)
    s = tl.load(sin + row * 2 * half + column, mask=column < half, other=0.0).to(tl.float32) * SIGN
    first = x + row * x_row + head * x_head + column
    a = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(first + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(first, a * c - b * s, mask=inside)
    tl.store(first + half, b * c + a * s, mask=inside)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, inverse: bool) -> None:
    """As `rotary.rotate`. The second half of cos and sin equals the first and is not read."""
    tokens, heads, size = x.shape
    cos, sin = cos.contiguous(), sin.contiguous()
    _rotate_kernel[(tokens,)](
        x, cos, sin, heads, size // 2, x.stride(0), x.stride(1), SIGN=-1.0 if inverse else 1.0,
        HEADS=triton.next_power_of_2(heads), HALF=triton.next_power_of_2(size // 2), num_warps=8 if heads > 16 else 4,
    )  # fmt: skip
