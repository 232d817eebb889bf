"""Triton kernels for CUDA. Each has a plain twin whose file has the formula: norm, gate, loss, eight.

Arithmetic is float32 inside, whatever comes in and goes out. One program takes one token unless it says otherwise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.eight import KIND, Eight


def _block(size: int) -> tuple[int, int]:
    """A power of two that holds a whole row, and warps for it."""
    block = int(triton.next_power_of_2(size))
    return block, min(16, max(1, block // 512))


# --- norm


@triton.jit
def _eight(value, at, inside, q, scale):
    """Stores a row, all of it at hand, in 8 bits, and its scale."""
    step = tl.maximum(tl.max(tl.abs(value), 0) / 448.0, 1e-12)
    tl.store(scale, step)
    tl.store(q + at, tl.minimum(tl.maximum(value / step, -448.0), 448.0).to(q.dtype.element_ty), mask=inside)


@triton.jit
def _norm_kernel(x, w, n, r, q, scales, size, eps, x_row, n_row, EIGHT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < size
    wide = tl.load(x + row * x_row + at, mask=inside, other=0.0).to(tl.float32)
    root = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    weight = tl.load(w + at, mask=inside, other=0.0).to(tl.float32)
    value = wide * root * weight
    tl.store(n + row * n_row + at, value, mask=inside)
    tl.store(r + row, root)
    if EIGHT:
        _eight(value, at, inside, q + row * size, scales + row)


def _room_for(tokens: int, size: int, like: torch.Tensor, eight: bool) -> Eight | None:
    if not eight:
        return None
    values = torch.empty((tokens, size), dtype=KIND, device=like.device)
    return Eight(values, torch.empty((tokens, 1), dtype=torch.float32, device=like.device))


def _pointers(small: Eight | None, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a kernel stores 8 bits; anything where it does not."""
    return (other, other) if small is None else (small.values, small.scales)


def norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, room: int, eight: bool
) -> tuple[torch.Tensor, torch.Tensor, Eight | None]:
    """As `norm.forward`."""
    tokens, size = x.shape
    n = torch.empty((tokens, size + room), dtype=x.dtype, device=x.device)[:, :size]
    r = torch.empty(tokens, dtype=torch.float32, device=x.device)
    block, warps = _block(size)
    small = _room_for(tokens, size, x, eight)
    _norm_kernel[(tokens,)](
        x, weight, n, r, *_pointers(small, r), size, eps, x.stride(0), n.stride(0),
        EIGHT=eight, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return n, r, small


@triton.jit
def _norm_backward_kernel(
    dn, x, w, r, past, dx, n, q, scales, size, PAST: tl.constexpr, EIGHT: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < size
    root = tl.load(r + row)
    unit = tl.load(x + row * size + at, mask=inside, other=0.0).to(tl.float32) * root
    weight = tl.load(w + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(dn + row * size + at, mask=inside, other=0.0).to(tl.float32) * weight
    found = root * (g - unit * (tl.sum(g * unit, 0) / size))
    if PAST:
        found += tl.load(past + row * size + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + row * size + at, found, mask=inside)
    tl.store(n + row * size + at, unit * weight, mask=inside)
    if EIGHT:
        _eight(found, at, inside, q + row * size, scales + row)


def norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, r: torch.Tensor, past: torch.Tensor | None, eight: bool
) -> tuple[torch.Tensor, torch.Tensor, Eight | None]:
    """As `norm.backward`; dx takes the place of `grad`."""
    x = x.contiguous()
    tokens, size = x.shape
    n = torch.empty_like(x)
    block, warps = _block(size)
    small = _room_for(tokens, size, x, eight)
    _norm_backward_kernel[(tokens,)](
        grad, x, weight, r, grad if past is None else past, grad, n, *_pointers(small, r), size,
        PAST=past is not None, EIGHT=eight, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return grad, n, small


# --- gate


@triton.jit
def _act(g, ACT: tl.constexpr):
    """act(g) and its slope."""
    if ACT == 0:
        s = 1.0 / (1.0 + tl.exp(-g))
        return g * s, s * (1.0 + g * (1.0 - s))
    else:  # noqa: RET505 (the branches are compiled apart)
        z = 0.7978845608028654 * (g + 0.044715 * g * g * g)
        t = 2.0 / (1.0 + tl.exp(-2.0 * z)) - 1.0
        slope = 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * g * g)
        return 0.5 * g * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * g * (1.0 - t * t) * slope


@triton.jit
def _gate_kernel(gu, h, q, scales, size, ACT: tl.constexpr, EIGHT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    g = tl.load(gu + row * 2 * size + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gu + row * 2 * size + size + at, mask=inside, other=0.0).to(tl.float32)
    value, _ = _act(g, ACT)
    value = value * u
    tl.store(h + row * size + at, value, mask=inside)
    if EIGHT:
        _eight(value, at, inside, q + row * size, scales + row)


def _pieces(size: int, eight: bool) -> tuple[int, int, int]:
    """Programs for a row, values that each takes, warps: 2,048 values, or all of them where their scale is wanted."""
    block, warps = _block(size) if eight else (2048, 8)
    return triton.cdiv(size, block), block, warps


def gate(gu: torch.Tensor, act: int, eight: bool) -> tuple[torch.Tensor, Eight | None]:
    """As `gate.forward`."""
    tokens, size = len(gu), gu.shape[1] // 2
    h = torch.empty((tokens, size), dtype=gu.dtype, device=gu.device)
    small = _room_for(tokens, size, gu, eight)
    programs, block, warps = _pieces(size, eight)
    _gate_kernel[(tokens, programs)](
        gu, h, *_pointers(small, h), size, ACT=act, EIGHT=eight, BLOCK=block, num_warps=warps
    )
    return h, small


@triton.jit
def _gate_backward_kernel(dh, gu, dgu, q, scales, size, ACT: tl.constexpr, EIGHT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    g = tl.load(gu + row * 2 * size + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gu + row * 2 * size + size + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(dh + row * size + at, mask=inside, other=0.0).to(tl.float32)
    value, slope = _act(g, ACT)
    dg = d * u * slope
    du = d * value
    tl.store(dh + row * size + at, value * u, mask=inside)
    tl.store(dgu + row * 2 * size + at, dg, mask=inside)
    tl.store(dgu + row * 2 * size + size + at, du, mask=inside)
    if EIGHT:  # one scale for both halves
        step = tl.maximum(tl.maximum(tl.max(tl.abs(dg), 0), tl.max(tl.abs(du), 0)) / 448.0, 1e-12)
        tl.store(scales + row, step)
        dg = tl.minimum(tl.maximum(dg / step, -448.0), 448.0)
        du = tl.minimum(tl.maximum(du / step, -448.0), 448.0)
        tl.store(q + row * 2 * size + at, dg.to(q.dtype.element_ty), mask=inside)
        tl.store(q + row * 2 * size + size + at, du.to(q.dtype.element_ty), mask=inside)


def gate_backward(
    grad: torch.Tensor, gu: torch.Tensor, act: int, eight: bool
) -> tuple[torch.Tensor, torch.Tensor, Eight | None]:
    """As `gate.backward`; h takes the place of `grad`."""
    tokens, size = grad.shape
    dgu = torch.empty_like(gu)
    small = _room_for(tokens, 2 * size, gu, eight)
    programs, block, warps = _pieces(size, eight)
    _gate_backward_kernel[(tokens, programs)](
        grad, gu, dgu, *_pointers(small, dgu), size, ACT=act, EIGHT=eight, BLOCK=block, num_warps=warps
    )
    return dgu, grad, small


# --- loss


@triton.jit
def _loss_kernel(z, targets, weights, losses, WORDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    z += row * WORDS
    target = tl.load(targets + row)
    weight = tl.load(weights + row)
    # Now: behind the last reduction no warp waits for another, and one may have written its gradient there already.
    right = tl.load(z + target).to(tl.float32)
    most = -float("inf")
    total = 0.0
    for start in range(0, WORDS, BLOCK):  # softmax in one pass (Milakov and Gimelshein 2018)
        at = start + tl.arange(0, BLOCK)
        part = tl.load(z + at, mask=at < WORDS, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(most, tl.max(part, 0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(part - higher), 0)
        most = higher
    sums = most + tl.log(total)
    tl.store(losses + row, weight * (sums - right))
    for start in range(0, WORDS, BLOCK):
        at = start + tl.arange(0, BLOCK)
        part = tl.load(z + at, mask=at < WORDS, other=-float("inf")).to(tl.float32)
        slope = tl.exp(part - sums) - tl.where(at == target, 1.0, 0.0)
        tl.store(z + at, slope * weight, mask=at < WORDS)


def to_gradient(z: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """As `loss.to_gradient`."""
    losses = torch.empty(len(z), dtype=torch.float32, device=z.device)
    _loss_kernel[(len(z),)](z, targets, weights, losses, WORDS=z.shape[1], BLOCK=4096, num_warps=8)
    return losses.sum()


# --- fp8


@triton.jit
def _quantise_kernel(x, q, scales, x_row, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_row
    most = 0.0
    for start in range(0, SIZE, BLOCK):
        at = start + tl.arange(0, BLOCK)
        part = tl.load(x + at, mask=at < SIZE, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.max(tl.abs(part), 0))
    scale = tl.maximum(most / 448.0, 1e-12)
    tl.store(scales + row, scale)
    for start in range(0, SIZE, BLOCK):  # the second reading comes from the cache
        at = start + tl.arange(0, BLOCK)
        part = tl.load(x + at, mask=at < SIZE, other=0.0).to(tl.float32)
        part = tl.minimum(tl.maximum(part / scale, -448.0), 448.0)
        tl.store(q + row * SIZE + at, part.to(q.dtype.element_ty), mask=at < SIZE)


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `eight.quantise`. x may have room behind its rows."""
    rows, size = x.shape
    q = torch.empty((rows, size), dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    block = min(8192, int(triton.next_power_of_2(size)))
    _quantise_kernel[(rows,)](x, q, scales, x.stride(0), SIZE=size, BLOCK=block, num_warps=max(1, block // 512))
    return q, scales
