"""Triton kernels of low-rank updates and of the adapters' copies; plain versions: lora.py, adapter_copies.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 32, 256  # tokens, columns; the fastest of those tried on an H200, within 10 % of its memory bandwidth


@triton.jit
def _add_low_rank_kernel(
    y, t, b, add_to, rows, size, rank, y_row, t_row, b_row, b_column, add_row,
    WITH_ADD: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, RANK)
    left = tl.load(t + m[:, None] * t_row + k, mask=(m[:, None] < rows) & (k < rank), other=0.0)
    right = tl.load(b + k[:, None] * b_row + n * b_column, mask=(k[:, None] < rank) & (n < size), other=0.0)
    inside = (m[:, None] < rows) & (n < size)
    tile = y + m[:, None] * y_row + n
    total = tl.load(tile, mask=inside, other=0.0).to(tl.float32) + tl.dot(left, right, input_precision="ieee")
    if WITH_ADD:
        total += tl.load(add_to + m[:, None] * add_row + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(tile, total, mask=inside)


def add_low_rank(y: torch.Tensor, t: torch.Tensor, b: torch.Tensor, add_to: torch.Tensor | None = None) -> None:
    """As `lora.add_low_rank`. One program per tile of y; the time is that of reading and writing y once, and of reading
    `add_to`."""
    rows, size = y.shape
    tile_rows, block = TILE
    grid = (triton.cdiv(rows, tile_rows), triton.cdiv(size, block))
    other = y if add_to is None else add_to
    _add_low_rank_kernel[grid](
        y, t, b, other, rows, size, len(b), y.stride(0), t.stride(0), b.stride(0), b.stride(1), other.stride(0),
        WITH_ADD=add_to is not None, RANK=max(16, int(triton.next_power_of_2(len(b)))), ROWS=tile_rows, BLOCK=block,
        num_warps=8,
    )  # fmt: skip


@triton.jit
def _copy_kernel(table, scales, source, target, BLOCK: tl.constexpr):
    """source, target: any tensors of the dtypes that the addresses in `table` point to."""
    number = tl.program_id(0)
    entry = table + number * 5
    source = tl.load(entry).to(source.dtype)
    target = tl.load(entry + 1).to(target.dtype)
    size, columns, row_stride = tl.load(entry + 2), tl.load(entry + 3).to(tl.int32), tl.load(entry + 4)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(source + at, mask=at < size, other=0.0).to(tl.float32) * tl.load(scales + number)
    tl.store(target + (at // columns) * row_stride + at % columns, value, mask=at < size)


def copy_scaled(
    table: torch.Tensor, scales: torch.Tensor, source: torch.Tensor, target: torch.Tensor, max_elements: int
) -> None:
    """As `AdapterCopies.refresh`, in one launch.

    Args:
        table: int64, (copies, 5): address of the parameter, address of the copy, elements, columns, row stride of the
            copy. scales: float32, (copies,). source, target: one parameter and one copy, for their dtypes.
    """
    block = 4096
    _copy_kernel[len(table), triton.cdiv(max_elements, block)](table, scales, source, target, BLOCK=block, num_warps=8)
