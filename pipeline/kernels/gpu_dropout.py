"""Triton kernels of dropout on the inputs of adapters; the formulas are in lora.py, where `drop` is the plain twin.

    t_i = drop_i(x) A_i',   dx += sum_i drop_i(p_i A_i),   dA_i = p_i' drop_i(x)       drop_i: zero where u_i < share

for adapters of one input and of equal rank at once. What is dropped is drawn again in each of them and never written: u
is a pure function of seed, adapter, token and column (Philox 4x32 with seven rounds, the fewest that pass BigCrush:
Salmon et al. 2011). These kernels wait for arithmetic, not for memory, so each draw of 32 bits is two u of 16, and a
share is rounded to 1/65536, in what is divided by too. Sums over tokens have a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.lora import Group, Seed

APART = 32  # columns between those that one counter is for; a tile is four times as wide
ROWS = 64  # tokens of a tile
SPLIT = 512  # tokens that a program adds up
WARPS = 4  # fastest of the tiles tried on an H200; with eight the sum onto wide inputs takes three to five times that
# Between keys of neighbouring places: odd and of 40 bits, so that those of one pass do not meet another one's.
STEP = tl.constexpr(0x9E3779B97F)


@triton.jit
def _drawn(seed, first, n, m, start, size, APART: tl.constexpr):
    """Four of u times 2^32, (tokens, APART) each, for the columns from `start` on, a multiple of 4 APART."""
    value = tl.load(seed)
    key = value + first + (value * 0 + n) * STEP  # in 64 bits, which n has not
    counters = (m * (tl.cdiv(size, 4 * APART) * APART // 2))[:, None] + (start // 8 + tl.arange(0, APART // 2))[None, :]
    a, b, c, d = tl.randint4x(key, counters.to(tl.int32), n_rounds=7)
    return _two(a, APART), _two(b, APART), _two(c, APART), _two(d, APART)


@triton.jit
def _two(drawn, APART: tl.constexpr):
    """Both halves of each, side by side, as the upper half."""
    return tl.join(drawn, drawn << 16).reshape(drawn.shape[0], APART)


@triton.jit
def _tile(x, m, at, rows, size, x_row):
    """(tokens, columns), zero where there is nothing."""
    return tl.load(x + m[:, None] * x_row + at, mask=(m[:, None] < rows) & (at < size), other=0.0)


@triton.jit
def _columns(a, n, k, at, size, rank):
    """Part of A_n, (RANK, APART)."""
    inside = (k[:, None] < rank) & (at < size)
    return tl.load(a + (n * rank + k[:, None]).to(tl.int64) * size + at, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["first", "rows", "cut"])
def _low_rank_kernel(
    x, a, t, seed, first, rows, rank, cut, x_row, t_row,
    size: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1)
    k = tl.arange(0, RANK)
    least = (cut << 16).to(tl.uint32)
    found = tl.zeros((ROWS, RANK), tl.float32)
    for start in range(0, size, 4 * APART):
        drawn = _drawn(seed, first, n, m, start, size, APART)
        for part in tl.static_range(4):
            at = start + part * APART + tl.arange(0, APART)
            left = tl.where(drawn[part] >= least, _tile(x, m, at, rows, size, x_row), 0.0)
            found = tl.dot(left, tl.trans(_columns(a, n, k, at, size, rank)), found, input_precision="ieee")
    place = t + m[:, None] * t_row + n * rank + k
    tl.store(place, found * (65536 / (65536 - cut)), mask=(m[:, None] < rows) & (k < rank))


def low_rank(t: torch.Tensor, x: torch.Tensor, a: torch.Tensor, group: Group, seed: Seed) -> None:
    """Writes t (tokens, ranks of the group). x (tokens, in) and t with any row strides; a (ranks of the group, in)."""
    rows, size = x.shape
    rank = len(a) // group.count
    _low_rank_kernel[triton.cdiv(rows, ROWS), group.count](
        x, a, t, seed.value, _first(group, seed), rows, rank, _cut(group), x.stride(0), t.stride(0),
        size=size, RANK=_room(rank), ROWS=ROWS, APART=APART, num_warps=WARPS, num_stages=2,
    )  # fmt: skip


def _first(group: Group, seed: Seed) -> int:
    return seed.at(group.place).place * STEP.value


def _cut(group: Group) -> int:
    """Its share in 65,536ths; something is left of the largest."""
    return min(65535, round(group.share * 65536))


def _room(rank: int) -> int:
    """What products ask for at least."""
    return max(16, int(triton.next_power_of_2(rank)))


@triton.jit(do_not_specialize=["first", "rows", "cut"])
def _input_kernel(
    dx, p, a, seed, first, rows, size, rank, cut, p_row,
    count: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1) * 4 * APART
    k = tl.arange(0, RANK)
    least = (cut << 16).to(tl.uint32)
    zero = tl.zeros((ROWS, APART), tl.float32)
    sums = (zero, zero, zero, zero)
    for n in tl.static_range(count):
        drawn = _drawn(seed, first, n, m, start, size, APART)
        left = tl.load(p + m[:, None] * p_row + n * rank + k, mask=(m[:, None] < rows) & (k < rank), other=0.0)
        more = ()
        for part in tl.static_range(4):
            at = start + part * APART + tl.arange(0, APART)
            found = tl.dot(left, _columns(a, n, k, at, size, rank), input_precision="ieee")
            more = more + (sums[part] + tl.where(drawn[part] >= least, found, 0.0),)  # noqa: RUF005
        sums = more
    for part in tl.static_range(4):
        at = start + part * APART + tl.arange(0, APART)
        total = _tile(dx, m, at, rows, size, size).to(tl.float32) + sums[part] * (65536 / (65536 - cut))
        tl.store(dx + m[:, None] * size + at, total, mask=(m[:, None] < rows) & (at < size))


def add_input(dx: torch.Tensor, p: torch.Tensor, a: torch.Tensor, group: Group, seed: Seed) -> None:
    """dx += sum_i drop_i(p_i A_i), in place. dx (tokens, in) contiguous; p (tokens, ranks of the group) with any row
    stride; a as in `low_rank`."""
    rows, size = dx.shape
    assert dx.is_contiguous()
    rank = len(a) // group.count
    _input_kernel[triton.cdiv(rows, ROWS), triton.cdiv(size, 4 * APART)](
        dx, p, a, seed.value, _first(group, seed), rows, size, rank, _cut(group), p.stride(0),
        count=group.count, RANK=_room(rank), ROWS=ROWS, APART=APART, num_warps=WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["first", "rows", "cut"])
def _gradient_kernel(
    p, x, da, seed, first, rows, size, rank, count, cut, p_row, x_row,
    RANK: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0)
    start = tl.program_id(1) * 4 * APART
    k = tl.arange(0, RANK)
    least = (cut << 16).to(tl.uint32)
    zero = tl.zeros((RANK, APART), tl.float32)
    sums = (zero, zero, zero, zero)
    for begin in range(0, SPLIT, ROWS):
        m = tl.program_id(2).to(tl.int64) * SPLIT + begin + tl.arange(0, ROWS)
        drawn = _drawn(seed, first, n, m, start, size, APART)
        inside = (m[None, :] < rows) & (k[:, None] < rank)
        left = tl.load(p + m[None, :] * p_row + n * rank + k[:, None], mask=inside, other=0.0)
        more = ()
        for part in tl.static_range(4):
            at = start + part * APART + tl.arange(0, APART)
            right = tl.where(drawn[part] >= least, _tile(x, m, at, rows, size, x_row), 0.0)
            more = more + (tl.dot(left, right, sums[part], input_precision="ieee"),)  # noqa: RUF005
        sums = more
    da += ((tl.program_id(2) * count + n) * rank).to(tl.int64) * size
    for part in tl.static_range(4):
        at = start + part * APART + tl.arange(0, APART)
        place = da + k[:, None].to(tl.int64) * size + at
        tl.store(place, sums[part] * (65536 / (65536 - cut)), mask=(k[:, None] < rank) & (at < size))


def gradient(p: torch.Tensor, x: torch.Tensor, group: Group, seed: Seed) -> torch.Tensor:
    """dA of the group, (its ranks, in) in float32. p (tokens, its ranks) and x (tokens, in), any row strides."""
    rows, size = x.shape
    rank, splits = p.shape[1] // group.count, triton.cdiv(rows, SPLIT)
    parts = torch.empty((splits, p.shape[1], size), dtype=torch.float32, device=x.device)
    _gradient_kernel[group.count, triton.cdiv(size, 4 * APART), splits](
        p, x, parts, seed.value, _first(group, seed), rows, size, rank, group.count, _cut(group), p.stride(0),
        x.stride(0), RANK=_room(rank), ROWS=ROWS, SPLIT=SPLIT, APART=APART, num_warps=WARPS,
    )  # fmt: skip
    return parts.sum(0)
