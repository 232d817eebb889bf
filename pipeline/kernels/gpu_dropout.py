"""Triton kernels of dropout on the inputs of adapters; the formulas are in lora.py, where `drop` is the plain twin.

    t_i = drop_i(x) A_i',   dx += sum_i drop_i(p_i A_i),   dA_i = p_i' drop_i(x)       drop_i: zero where u_i < share

for adapters of one input and of equal rank at once. What is dropped is drawn again in each of them and never written: u
is a pure function of seed, adapter, token and column (Philox 4x32, Salmon et al. 2011). A counter gives four numbers,
for columns `APART` from each other, so a tile is taken in four parts. Sums over tokens have a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.lora import Group, Seed

APART = 32  # columns between those that one counter is for; a tile is four times as wide
ROWS = 64  # tokens of a tile
SPLIT = 1024  # tokens that a program adds up
WARPS = 8  # with four, most of the registers of a multiprocessor go to two programs
# Between keys of neighbouring places: odd and of 40 bits, so that those of one pass do not meet another one's.
STEP = tl.constexpr(0x9E3779B97F)


@triton.jit
def _drawn(seed, first, n, m, start, size, APART: tl.constexpr):
    """Four of u, (tokens, APART) each, for the columns from `start` on; `start` is a multiple of 4 APART."""
    value = tl.load(seed)
    key = value + first + (value * 0 + n) * STEP  # in 64 bits, which n has not
    counters = (m * (tl.cdiv(size, 4 * APART) * APART))[:, None] + (start // 4 + tl.arange(0, APART))[None, :]
    return tl.rand4x(key, counters.to(tl.int32))


@triton.jit
def _kept(x, u, m, at, rows, size, share, x_row):
    """Part of a tile of x, zero where it is dropped; not yet divided by 1 - share."""
    return tl.load(x + m[:, None] * x_row + at, mask=(m[:, None] < rows) & (at < size) & (u >= share), other=0.0)


@triton.jit
def _columns(a, n, k, at, size, rank):
    """Part of A_n, (RANK, APART)."""
    inside = (k[:, None] < rank) & (at < size)
    return tl.load(a + (n * rank + k[:, None]).to(tl.int64) * size + at, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["first", "rows"])
def _low_rank_kernel(
    x, a, t, seed, first, rows, rank, share, x_row, t_row,
    size: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1)
    k = tl.arange(0, RANK)
    found = tl.zeros((ROWS, RANK), tl.float32)
    for start in range(0, size, 4 * APART):
        u0, u1, u2, u3 = _drawn(seed, first, n, m, start, size, APART)
        at = start + tl.arange(0, APART)
        left, right = _kept(x, u0, m, at, rows, size, share, x_row), _columns(a, n, k, at, size, rank)
        found += tl.dot(left, tl.trans(right), input_precision="ieee")
        at += APART
        left, right = _kept(x, u1, m, at, rows, size, share, x_row), _columns(a, n, k, at, size, rank)
        found += tl.dot(left, tl.trans(right), input_precision="ieee")
        at += APART
        left, right = _kept(x, u2, m, at, rows, size, share, x_row), _columns(a, n, k, at, size, rank)
        found += tl.dot(left, tl.trans(right), input_precision="ieee")
        at += APART
        left, right = _kept(x, u3, m, at, rows, size, share, x_row), _columns(a, n, k, at, size, rank)
        found += tl.dot(left, tl.trans(right), input_precision="ieee")
    place = t + m[:, None] * t_row + n * rank + k
    tl.store(place, found / (1 - share), mask=(m[:, None] < rows) & (k < rank))


def low_rank(t: torch.Tensor, x: torch.Tensor, a: torch.Tensor, group: Group, seed: Seed) -> None:
    """Writes t (tokens, ranks of the group). x (tokens, in) and t with any row strides; a (ranks of the group, in)."""
    rows, size = x.shape
    rank = len(a) // group.count
    _low_rank_kernel[triton.cdiv(rows, ROWS), group.count](
        x, a, t, seed.value, _first(group, seed), rows, rank, group.share, x.stride(0), t.stride(0),
        size=size, RANK=_room(rank), ROWS=ROWS, APART=APART, num_warps=WARPS,
    )  # fmt: skip


def _first(group: Group, seed: Seed) -> int:
    return seed.at(group.place).place * STEP.value


def _room(rank: int) -> int:
    """What products ask for at least."""
    return max(16, int(triton.next_power_of_2(rank)))


@triton.jit
def _more(dx, sum, m, at, rows, size, share):
    inside = (m[:, None] < rows) & (at < size)
    place = dx + m[:, None] * size + at
    tl.store(place, tl.load(place, mask=inside, other=0.0).to(tl.float32) + sum / (1 - share), mask=inside)


@triton.jit(do_not_specialize=["first", "rows"])
def _input_kernel(
    dx, p, a, seed, first, rows, size, rank, share, p_row,
    count: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1) * 4 * APART
    k = tl.arange(0, RANK)
    at = start + tl.arange(0, APART)
    sum0 = tl.zeros((ROWS, APART), tl.float32)
    sum1 = tl.zeros((ROWS, APART), tl.float32)
    sum2 = tl.zeros((ROWS, APART), tl.float32)
    sum3 = tl.zeros((ROWS, APART), tl.float32)
    for n in range(count):
        u0, u1, u2, u3 = _drawn(seed, first, n, m, start, size, APART)
        inside = (m[:, None] < rows) & (k < rank)
        left = tl.load(p + m[:, None] * p_row + n * rank + k, mask=inside, other=0.0)
        found = tl.dot(left, _columns(a, n, k, at, size, rank), input_precision="ieee")
        sum0 += tl.where(u0 < share, 0.0, found)
        found = tl.dot(left, _columns(a, n, k, at + APART, size, rank), input_precision="ieee")
        sum1 += tl.where(u1 < share, 0.0, found)
        found = tl.dot(left, _columns(a, n, k, at + 2 * APART, size, rank), input_precision="ieee")
        sum2 += tl.where(u2 < share, 0.0, found)
        found = tl.dot(left, _columns(a, n, k, at + 3 * APART, size, rank), input_precision="ieee")
        sum3 += tl.where(u3 < share, 0.0, found)
    _more(dx, sum0, m, at, rows, size, share)
    _more(dx, sum1, m, at + APART, rows, size, share)
    _more(dx, sum2, m, at + 2 * APART, rows, size, share)
    _more(dx, sum3, m, at + 3 * APART, rows, size, share)


def add_input(dx: torch.Tensor, p: torch.Tensor, a: torch.Tensor, group: Group, seed: Seed) -> None:
    """dx += sum_i drop_i(p_i A_i), in place. dx (tokens, in) contiguous; p (tokens, ranks of the group) with any row
    stride; a as in `low_rank`."""
    rows, size = dx.shape
    assert dx.is_contiguous()
    rank = len(a) // group.count
    _input_kernel[triton.cdiv(rows, ROWS), triton.cdiv(size, 4 * APART)](
        dx, p, a, seed.value, _first(group, seed), rows, size, rank, group.share, p.stride(0),
        count=group.count, RANK=_room(rank), ROWS=ROWS, APART=APART, num_warps=WARPS,
    )  # fmt: skip


@triton.jit
def _part(da, found, share, k, at, size, rank):
    tl.store(da + k[:, None].to(tl.int64) * size + at, found / (1 - share), mask=(k[:, None] < rank) & (at < size))


@triton.jit(do_not_specialize=["first", "rows"])
def _gradient_kernel(
    p, x, da, seed, first, rows, size, rank, count, share, p_row, x_row,
    RANK: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0)
    start = tl.program_id(1) * 4 * APART
    k = tl.arange(0, RANK)
    at = start + tl.arange(0, APART)
    sum0 = tl.zeros((RANK, APART), tl.float32)
    sum1 = tl.zeros((RANK, APART), tl.float32)
    sum2 = tl.zeros((RANK, APART), tl.float32)
    sum3 = tl.zeros((RANK, APART), tl.float32)
    for begin in range(0, SPLIT, ROWS):
        m = tl.program_id(2).to(tl.int64) * SPLIT + begin + tl.arange(0, ROWS)
        u0, u1, u2, u3 = _drawn(seed, first, n, m, start, size, APART)
        inside = (m[None, :] < rows) & (k[:, None] < rank)
        left = tl.load(p + m[None, :] * p_row + n * rank + k[:, None], mask=inside, other=0.0)
        sum0 += tl.dot(left, _kept(x, u0, m, at, rows, size, share, x_row), input_precision="ieee")
        sum1 += tl.dot(left, _kept(x, u1, m, at + APART, rows, size, share, x_row), input_precision="ieee")
        sum2 += tl.dot(left, _kept(x, u2, m, at + 2 * APART, rows, size, share, x_row), input_precision="ieee")
        sum3 += tl.dot(left, _kept(x, u3, m, at + 3 * APART, rows, size, share, x_row), input_precision="ieee")
    da += ((tl.program_id(2) * count + n) * rank).to(tl.int64) * size
    _part(da, sum0, share, k, at, size, rank)
    _part(da, sum1, share, k, at + APART, size, rank)
    _part(da, sum2, share, k, at + 2 * APART, size, rank)
    _part(da, sum3, share, k, at + 3 * APART, size, rank)


def gradient(p: torch.Tensor, x: torch.Tensor, group: Group, seed: Seed) -> torch.Tensor:
    """dA of the group, (its ranks, in) in float32. p (tokens, its ranks) and x (tokens, in), any row strides."""
    rows, size = x.shape
    rank, splits = p.shape[1] // group.count, triton.cdiv(rows, SPLIT)
    parts = torch.empty((splits, p.shape[1], size), dtype=torch.float32, device=x.device)
    _gradient_kernel[group.count, triton.cdiv(size, 4 * APART), splits](
        p, x, parts, seed.value, _first(group, seed), rows, size, rank, group.count, group.share, p.stride(0),
        x.stride(0), RANK=_room(rank), ROWS=ROWS, SPLIT=SPLIT, APART=APART, num_warps=WARPS,
    )  # fmt: skip
    return parts.sum(0)
