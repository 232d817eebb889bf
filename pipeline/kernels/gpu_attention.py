"""Triton kernels around attention on CUDA; their plain twins, with the formulas, are in rotary.py and attention.py.

Arithmetic is float32 inside, whatever comes in and goes out. One program takes one token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# --- rotary


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


@triton.jit
def _gather_kernel(
    dq, dk, dv, late, cos, sin, out, front, shared, heads, key_heads, half,
    LATE: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    size = 2 * half
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None, :]
    c = tl.load(cos + row * size + at, mask=at < half, other=0.0).to(tl.float32)
    s = -tl.load(sin + row * size + at, mask=at < half, other=0.0).to(tl.float32)
    out += row * (heads + 2 * key_heads) * size

    inside = (head < heads) & (at < half)
    place = head * size + at
    a = tl.load(dq + row * heads * size + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(dq + row * heads * size + place + half, mask=inside, other=0.0).to(tl.float32)
    if LATE:
        more = inside & (row >= front) & (row < shared)
        a += tl.load(late + (row - front) * heads * size + place, mask=more, other=0.0).to(tl.float32)
        b += tl.load(late + (row - front) * heads * size + place + half, mask=more, other=0.0).to(tl.float32)
    tl.store(out + place, a * c - b * s, mask=inside)
    tl.store(out + place + half, b * c + a * s, mask=inside)

    inside = (head < key_heads) & (at < half)
    a = tl.load(dk + row * key_heads * size + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(dk + row * key_heads * size + place + half, mask=inside, other=0.0).to(tl.float32)
    out += heads * size
    tl.store(out + place, a * c - b * s, mask=inside)
    tl.store(out + place + half, b * c + a * s, mask=inside)

    out += key_heads * size
    tl.store(out + place, tl.load(dv + row * key_heads * size + place, mask=inside), mask=inside)
    tl.store(out + place + half, tl.load(dv + row * key_heads * size + place + half, mask=inside), mask=inside)


def gather_back(
    dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor, late: torch.Tensor | None, front: int,
    cos: torch.Tensor, sin: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """As `rotary.gather_back`."""
    dq, dk, dv = dq.contiguous(), dk.contiguous(), dv.contiguous()
    tokens, heads, size = dq.shape
    key_heads = dk.shape[1]
    out = torch.empty((tokens, (heads + 2 * key_heads) * size), dtype=dq.dtype, device=dq.device)
    _gather_kernel[(tokens,)](
        dq, dk, dv, dq if late is None else late.contiguous(), cos.contiguous(), sin.contiguous(), out,
        front, front + (0 if late is None else len(late)), heads, key_heads, size // 2,
        LATE=late is not None, HEADS=triton.next_power_of_2(heads), HALF=triton.next_power_of_2(size // 2),
        num_warps=8 if heads > 16 else 4,
    )  # fmt: skip
    return out


# --- attention


@triton.jit
def _merge_kernel(out, lse, out2, lse2, heads, size, lse_head, tokens, HEADS: tl.constexpr, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)
    at = tl.arange(0, SIZE)
    there = head < heads
    l1 = tl.load(lse + head * lse_head + row, mask=there, other=0.0)
    l2 = tl.load(lse2 + head * tokens + row, mask=there, other=0.0)
    most = tl.maximum(l1, l2)
    both = most + tl.log(tl.exp(l1 - most) + tl.exp(l2 - most))
    inside = there[:, None] & (at < size)[None, :]
    place = (row * heads + head[:, None]) * size + at[None, :]
    o1 = tl.load(out + place, mask=inside, other=0.0).to(tl.float32)
    o2 = tl.load(out2 + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, o1 * tl.exp(l1 - both)[:, None] + o2 * tl.exp(l2 - both)[:, None], mask=inside)
    tl.store(lse + head * lse_head + row, both, mask=there)


def merge(out: torch.Tensor, lse: torch.Tensor, out2: torch.Tensor, lse2: torch.Tensor) -> None:
    """As `attention.merge`. out and out2 (tokens, heads, size) contiguous; lse may be part of a longer one."""
    tokens, heads, size = out.shape
    _merge_kernel[(tokens,)](
        out, lse, out2, lse2.contiguous(), heads, size, lse.stride(0), tokens,
        HEADS=triton.next_power_of_2(heads), SIZE=triton.next_power_of_2(size), num_warps=8 if heads > 16 else 4,
    )  # fmt: skip
