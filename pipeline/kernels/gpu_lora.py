"""Triton kernels of low-rank updates on CUDA; their plain twins, with the formulas, are in lora.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 32, 256  # tokens and columns: beside larger ones the fastest on an H200, within a tenth of its memory's speed


@triton.jit
def _low_rank_kernel(
    y, t, b, rows, size, rank, y_row, t_row, b_row, b_column,
    RANK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, RANK)
    left = tl.load(t + m[:, None] * t_row + k, mask=(m[:, None] < rows) & (k < rank), other=0.0)
    right = tl.load(b + k[:, None] * b_row + n * b_column, mask=(k[:, None] < rank) & (n < size), other=0.0)
    inside = (m[:, None] < rows) & (n < size)
    place = y + m[:, None] * y_row + n
    found = tl.load(place, mask=inside, other=0.0).to(tl.float32) + tl.dot(left, right, input_precision="ieee")
    tl.store(place, found, mask=inside)


def add_low_rank(y: torch.Tensor, t: torch.Tensor, b: torch.Tensor) -> None:
    """As `lora.add`. A program takes a tile of y: reading and writing it once is all the time it needs."""
    rows, size = y.shape
    tile, block = TILE
    grid = (triton.cdiv(rows, tile), triton.cdiv(size, block))
    _low_rank_kernel[grid](
        y, t, b, rows, size, len(b), y.stride(0), t.stride(0), b.stride(0), b.stride(1),
        RANK=max(16, int(triton.next_power_of_2(len(b)))), ROWS=tile, BLOCK=block, num_warps=8,
    )  # fmt: skip


@triton.jit
def _copy_kernel(table, scales, source, target, BLOCK: tl.constexpr):
    """source, target: anything of the types that the table's addresses are of."""
    number = tl.program_id(0)
    place = table + number * 5
    there = tl.load(place).to(source.dtype)
    here = tl.load(place + 1).to(target.dtype)
    size, columns, row = tl.load(place + 2), tl.load(place + 3).to(tl.int32), tl.load(place + 4)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(there + at, mask=at < size, other=0.0).to(tl.float32) * tl.load(scales + number)
    tl.store(here + (at // columns) * row + at % columns, value, mask=at < size)


def copy(table: torch.Tensor, scales: torch.Tensor, source: torch.Tensor, target: torch.Tensor, largest: int) -> None:
    """As `Copies.refresh`, all in one kernel.

    Args:
        table: int64, (copies, 5): address of a parameter, of its copy, elements, columns, elements between rows of the
            copy. scales: float32, (copies,). source, target: a parameter and a copy. largest: most elements.
    """
    block = 4096
    _copy_kernel[len(table), triton.cdiv(largest, block)](table, scales, source, target, BLOCK=block, num_warps=8)
