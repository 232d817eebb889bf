"""Tiles of attention in Triton: how kernels load and store one, and how large it is on a card.

`layout.py` says which tokens a tile holds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.card import has_matrix_units, has_room
from pipeline.kernels.layout import LONG_TILE, TILE, Layout

LOG2E = tl.constexpr(1.4426950408889634)  # scores are in base 2


@triton.jit
def load_tile(x, query, stride, head, end, size: tl.constexpr, PADDED: tl.constexpr):
    """Tokens of one head, (tokens, PADDED); zero from `end` on and in columns from `size` on."""
    at = tl.arange(0, PADDED)
    inside = (query[:, None] < end) & (at < size)[None, :] if size != PADDED else query[:, None] < end
    return tl.load(x + query[:, None].to(tl.int64) * stride + head * size + at[None, :], mask=inside, other=0.0)


@triton.jit
def store_tile(x, values, query, stride, head, end, size: tl.constexpr, PADDED: tl.constexpr):
    """Writes what `load_tile` reads; nothing from `end` on and in columns from `size` on."""
    at = tl.arange(0, PADDED)
    inside = (query[:, None] < end) & (at < size)[None, :] if size != PADDED else query[:, None] < end
    tl.store(x + query[:, None].to(tl.int64) * stride + head * size + at[None, :], values, mask=inside)


def kernel_shape(q: torch.Tensor, k: torch.Tensor) -> dict[str, int]:
    """Compile-time sizes. Wide heads use smaller tiles, which fit into the shared memory of consumer cards; wider than
    128, or than 64 where operands are widened to float32 (see card.py)."""
    size = q.shape[2]
    assert all(t.stride(1) == size and t.stride(2) == 1 for t in (q, k))
    padded = max(16, triton.next_power_of_2(size))
    widest = 128 if has_matrix_units(q.device) else 64  # in tiles of full size
    return {"group": q.shape[1] // k.shape[1], "heads": q.shape[1], "size": size, "PADDED": padded,
            "BLOCK": max(16, TILE * widest // max(padded, widest))}  # fmt: skip


def warps(shape: dict[str, int]) -> int:
    """Warps of a program that computes a tile of `BLOCK` tokens."""
    return 8 if shape["PADDED"] > 128 else 4


def queries_of(layout: Layout, shape: dict[str, int], stages: int) -> tuple[torch.Tensor, dict[str, int]]:
    """Tiles of queries, and how a program computes one; of those tried on an H200 the fastest for long rows
    (docs/benchmarks.md). stages: of loads, for short rows."""
    if layout.long_tiles is not None and shape["PADDED"] <= 128 and has_room(layout.long_tiles.device):
        return layout.long_tiles, {**shape, "QUERIES": LONG_TILE, "num_warps": 8, "num_stages": 3}
    return layout.query_tiles, {**shape, "QUERIES": shape["BLOCK"], "num_warps": warps(shape), "num_stages": stages}
