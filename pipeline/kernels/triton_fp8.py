"""Triton kernels that quantize rows to 8-bit floats; the formula and the plain version are in fp8_rows.py.

Arithmetic is in float32. One program handles one row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.types import FP8, Fp8Rows


@triton.jit
def store_fp8_values(value, column, inside, q, step):
    """Stores part of a row in 8 bits. step: the row's scale."""
    tl.store(q + column, tl.minimum(tl.maximum(value / step, -448.0), 448.0).to(q.dtype.element_ty), mask=inside)


@triton.jit
def store_fp8_row(value, column, inside, q, scale):
    """Stores a row in 8 bits, and its scale. value: the whole row."""
    step = tl.maximum(tl.max(tl.abs(value), 0) / 448.0, 1e-12)
    tl.store(scale, step)
    store_fp8_values(value, column, inside, q, step)


@triton.jit
def store_written_fp8(values, size, largest, q, scale, BLOCK: tl.constexpr):
    """Stores a row in 8 bits that this program has written, and its scale.

    values: the row, of `size` numbers, read from the cache. largest: of BLOCK parts of it, in absolute value.
    """
    step = tl.maximum(tl.max(largest, 0) / 448.0, 1e-12)
    tl.store(scale, step)
    tl.debug_barrier()  # threads read what others wrote
    for start in range(0, size, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(values + column, mask=column < size, other=0.0).to(tl.float32)
        store_fp8_values(value, column, column < size, q, step)


def empty_fp8(tokens: int, size: int, like: torch.Tensor, fp8: bool) -> Fp8Rows | None:
    if not fp8:
        return None
    values = torch.empty((tokens, size), dtype=FP8, device=like.device)
    return Fp8Rows(values, torch.empty((tokens, 1), dtype=torch.float32, device=like.device))


def fp8_pointers(quantized: Fp8Rows | None, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a kernel stores the quantized rows; any tensor if it does not."""
    return (other, other) if quantized is None else (quantized.values, quantized.scales)


@triton.jit
def _quantize_kernel(x, q, scales, x_row, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_row
    maximum = 0.0
    for start in range(0, SIZE, BLOCK):
        column = start + tl.arange(0, BLOCK)
        part = tl.load(x + column, mask=column < SIZE, other=0.0).to(tl.float32)
        maximum = tl.maximum(maximum, tl.max(tl.abs(part), 0))
    scale = tl.maximum(maximum / 448.0, 1e-12)
    tl.store(scales + row, scale)
    for start in range(0, SIZE, BLOCK):  # the second read comes from the cache
        column = start + tl.arange(0, BLOCK)
        part = tl.load(x + column, mask=column < SIZE, other=0.0).to(tl.float32)
        store_fp8_values(part, column, column < SIZE, q + row * SIZE, scale)


def quantize_rows(x: torch.Tensor) -> Fp8Rows:
    """As `fp8_rows.quantize_rows`."""
    rows, size = x.shape
    quantized = Fp8Rows(
        torch.empty((rows, size), dtype=FP8, device=x.device),
        torch.empty((rows, 1), dtype=torch.float32, device=x.device),
    )
    block = min(8192, int(triton.next_power_of_2(size)))
    _quantize_kernel[(rows,)](
        x, quantized.values, quantized.scales, x.stride(0), SIZE=size, BLOCK=block, num_warps=max(1, block // 512)
    )
    return quantized
