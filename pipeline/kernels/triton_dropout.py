"""Triton kernels of dropout on the inputs of adapters; the plain version is in dropout.py.

    t_i = drop_i(x) A_i',   dx += sum_i drop_i(p_i A_i),   dA_i = p_i' drop_i(x)     drop_i: zero where u_i < dropout

for a group of adapters with one input and equal rank. The mask is never stored but drawn again in each of the three
kernels: u is a pure function of seed, adapter, token and column (Philox 4x32 with seven rounds, the fewest that pass
BigCrush: Salmon et al. 2011). The kernels are bound by arithmetic, so each 32-bit draw gives two 16-bit u, and the
dropout probability is rounded to 1/65536, also in the division by 1 - dropout. Sums over tokens are deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.types import DropoutGroup, DropoutSeed

STRIDE = 32  # columns between the four draws of one counter; a tile has 4 STRIDE columns
ROWS = 64  # tokens of a tile
CHUNK = 512  # tokens in one partial sum of dA
WARPS = 4  # fastest on an H200 with these tiles; with eight, `add_input_gradient` takes 3 to 5 times as long
# Between the Philox keys of neighbouring masks: odd and 40 bits wide, so that keys of different passes do not coincide.
KEY_STEP = tl.constexpr(0x9E3779B97F)


@triton.jit
def _draw(seed, first_key, n, m, start, size, STRIDE: tl.constexpr):
    """u * 2^32 for 4 STRIDE columns from `start` on (a multiple of that), as four of (tokens, STRIDE)."""
    value = tl.load(seed)
    key = value + first_key + (value * 0 + n) * KEY_STEP  # value * 0: to 64 bits
    counters = (m * (tl.cdiv(size, 4 * STRIDE) * STRIDE // 2))[:, None] + (
        start // 8 + tl.arange(0, STRIDE // 2)
    )[None, :]  # fmt: skip
    a, b, c, d = tl.randint4x(key, counters.to(tl.int32), n_rounds=7)
    return _halves(a, STRIDE), _halves(b, STRIDE), _halves(c, STRIDE), _halves(d, STRIDE)


@triton.jit
def _halves(draw, STRIDE: tl.constexpr):
    """Upper and lower 16 bits of each draw, both as upper bits, side by side."""
    return tl.join(draw, draw << 16).reshape(draw.shape[0], STRIDE)


@triton.jit
def _load_tile(x, m, columns, rows, size, x_row):
    """(tokens, columns), zero outside x."""
    return tl.load(x + m[:, None] * x_row + columns, mask=(m[:, None] < rows) & (columns < size), other=0.0)


@triton.jit
def _load_a(a, n, k, columns, size, rank):
    """The columns of A_n, (RANK, STRIDE)."""
    inside = (k[:, None] < rank) & (columns < size)
    return tl.load(a + (n * rank + k[:, None]).to(tl.int64) * size + columns, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["first_key", "rows", "dropout_16"])
def _project_kernel(
    x, a, t, seed, first_key, rows, rank, dropout_16, x_row, t_row,
    size: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1)
    k = tl.arange(0, RANK)
    threshold = (dropout_16 << 16).to(tl.uint32)
    t_tile = tl.zeros((ROWS, RANK), tl.float32)
    for start in range(0, size, 4 * STRIDE):
        u = _draw(seed, first_key, n, m, start, size, STRIDE)
        for part in tl.static_range(4):
            columns = start + part * STRIDE + tl.arange(0, STRIDE)
            dropped = tl.where(u[part] >= threshold, _load_tile(x, m, columns, rows, size, x_row), 0.0)
            t_tile = tl.dot(dropped, tl.trans(_load_a(a, n, k, columns, size, rank)), t_tile, input_precision="ieee")
    address = t + m[:, None] * t_row + n * rank + k
    tl.store(address, t_tile * (65536 / (65536 - dropout_16)), mask=(m[:, None] < rows) & (k < rank))


def project(t: torch.Tensor, x: torch.Tensor, a: torch.Tensor, group: DropoutGroup, seed: DropoutSeed) -> None:
    """t_i = drop_i(x) A_i', into t (tokens, ranks of the group). x (tokens, in); a (ranks of the group, in). x and t
    may have any row stride."""
    rows, size = x.shape
    rank = len(a) // group.count
    _project_kernel[triton.cdiv(rows, ROWS), group.count](
        x, a, t, seed.value, _first_key(group, seed), rows, rank, _dropout_16(group), x.stride(0), t.stride(0),
        size=size, RANK=_padded_rank(rank), ROWS=ROWS, STRIDE=STRIDE, num_warps=WARPS, num_stages=2,
    )  # fmt: skip


def _first_key(group: DropoutGroup, seed: DropoutSeed) -> int:
    return seed.child(group.first).index * KEY_STEP.value


def _dropout_16(group: DropoutGroup) -> int:
    """Dropout probability scaled to 16 bits; at most 65,535 so that some inputs survive."""
    return min(65535, round(group.dropout * 65536))


def _padded_rank(rank: int) -> int:
    """A power of two, at least the 16 that tl.dot needs."""
    return max(16, int(triton.next_power_of_2(rank)))


@triton.jit(do_not_specialize=["first_key", "rows", "dropout_16"])
def _input_gradient_kernel(
    dx, p, a, seed, first_key, rows, size, rank, dropout_16, p_row,
    count: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1) * 4 * STRIDE
    k = tl.arange(0, RANK)
    threshold = (dropout_16 << 16).to(tl.uint32)
    zero = tl.zeros((ROWS, STRIDE), tl.float32)
    sums = (zero, zero, zero, zero)
    for n in tl.static_range(count):
        u = _draw(seed, first_key, n, m, start, size, STRIDE)
        p_tile = tl.load(p + m[:, None] * p_row + n * rank + k, mask=(m[:, None] < rows) & (k < rank), other=0.0)
        new = ()
        for part in tl.static_range(4):
            columns = start + part * STRIDE + tl.arange(0, STRIDE)
            product = tl.dot(p_tile, _load_a(a, n, k, columns, size, rank), input_precision="ieee")
            new = new + (sums[part] + tl.where(u[part] >= threshold, product, 0.0),)  # noqa: RUF005
        sums = new
    for part in tl.static_range(4):
        columns = start + part * STRIDE + tl.arange(0, STRIDE)
        dx_tile = _load_tile(dx, m, columns, rows, size, size).to(tl.float32)
        dx_tile += sums[part] * (65536 / (65536 - dropout_16))
        tl.store(dx + m[:, None] * size + columns, dx_tile, mask=(m[:, None] < rows) & (columns < size))


def add_input_gradient(
    dx: torch.Tensor, p: torch.Tensor, a: torch.Tensor, group: DropoutGroup, seed: DropoutSeed
) -> None:
    """dx += sum_i drop_i(p_i A_i), in place. dx (tokens, in) contiguous; p (tokens, ranks of the group), any row
    stride; a as in `project`."""
    rows, size = dx.shape
    assert dx.is_contiguous()
    rank = len(a) // group.count
    _input_gradient_kernel[triton.cdiv(rows, ROWS), triton.cdiv(size, 4 * STRIDE)](
        dx, p, a, seed.value, _first_key(group, seed), rows, size, rank, _dropout_16(group), p.stride(0),
        count=group.count, RANK=_padded_rank(rank), ROWS=ROWS, STRIDE=STRIDE, num_warps=WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["first_key", "rows", "dropout_16"])
def _weight_gradient_kernel(
    p, x, da, seed, first_key, rows, size, rank, count, dropout_16, p_row, x_row,
    RANK: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0)
    start = tl.program_id(1) * 4 * STRIDE
    k = tl.arange(0, RANK)
    threshold = (dropout_16 << 16).to(tl.uint32)
    zero = tl.zeros((RANK, STRIDE), tl.float32)
    sums = (zero, zero, zero, zero)
    for begin in range(0, CHUNK, ROWS):
        m = tl.program_id(2).to(tl.int64) * CHUNK + begin + tl.arange(0, ROWS)
        u = _draw(seed, first_key, n, m, start, size, STRIDE)
        inside = (m[None, :] < rows) & (k[:, None] < rank)
        p_tile = tl.load(p + m[None, :] * p_row + n * rank + k[:, None], mask=inside, other=0.0)
        new = ()
        for part in tl.static_range(4):
            columns = start + part * STRIDE + tl.arange(0, STRIDE)
            dropped = tl.where(u[part] >= threshold, _load_tile(x, m, columns, rows, size, x_row), 0.0)
            new = new + (tl.dot(p_tile, dropped, sums[part], input_precision="ieee"),)  # noqa: RUF005
        sums = new
    da += ((tl.program_id(2) * count + n) * rank).to(tl.int64) * size
    for part in tl.static_range(4):
        columns = start + part * STRIDE + tl.arange(0, STRIDE)
        address = da + k[:, None].to(tl.int64) * size + columns
        tl.store(address, sums[part] * (65536 / (65536 - dropout_16)), mask=(k[:, None] < rank) & (columns < size))


def weight_gradient(p: torch.Tensor, x: torch.Tensor, group: DropoutGroup, seed: DropoutSeed) -> torch.Tensor:
    """dA of the group, float32, (its ranks, in). p (tokens, its ranks) and x (tokens, in), any row stride."""
    rows, size = x.shape
    rank, chunks = p.shape[1] // group.count, triton.cdiv(rows, CHUNK)
    partial_sums = torch.empty((chunks, p.shape[1], size), dtype=torch.float32, device=x.device)
    _weight_gradient_kernel[group.count, triton.cdiv(size, 4 * STRIDE), chunks](
        p, x, partial_sums, seed.value, _first_key(group, seed), rows, size, rank, group.count, _dropout_16(group),
        p.stride(0), x.stride(0), RANK=_padded_rank(rank), ROWS=ROWS, CHUNK=CHUNK, STRIDE=STRIDE, num_warps=WARPS,
    )  # fmt: skip
    return partial_sums.sum(0)
