"""Triton kernels of attention on CUDA; formulas and plain twin are in attention.py.

All sums are in float32 and have a fixed order. Scores and their sums are in base 2. Measured against torch's
variable-length flash attention in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from pipeline.kernels.attention import TILE, Layout

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _tile(x, row, stride, head, end, size: tl.constexpr, WIDE: tl.constexpr):
    """Rows of one head, (rows, WIDE); zero behind `end`."""
    at = tl.arange(0, WIDE)
    there = (row[:, None] < end) & (at < size)[None, :] if size != WIDE else row[:, None] < end
    return tl.load(x + row[:, None].to(tl.int64) * stride + head * size + at[None, :], mask=there, other=0.0)


@triton.jit
def _put(x, values, row, stride, head, end, size: tl.constexpr, WIDE: tl.constexpr):
    at = tl.arange(0, WIDE)
    there = (row[:, None] < end) & (at < size)[None, :] if size != WIDE else row[:, None] < end
    tl.store(x + row[:, None].to(tl.int64) * stride + head * size + at[None, :], values, mask=there)


@triton.jit
def _more(q, k, v, most, total, out, seen, scale):
    """One step of the softmax over some keys, scores in base 2."""
    s = tl.where(seen, tl.dot(q, tl.trans(k)) * (scale * LOG2E), float("-inf"))
    new = tl.maximum(most, tl.max(s, 1))
    p = tl.exp2(s - new[:, None])
    old = tl.exp2(most - new)
    return new, total * old + tl.sum(p, 1), tl.dot(p.to(v.dtype), v, out * old[:, None])


@triton.jit
def _forward_kernel(
    q, k, v, out, lse, blocks, tokens, scale, q_row, k_row, v_row, group: tl.constexpr, heads: tl.constexpr,
    size: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    place = blocks + tl.program_id(0) * 5
    start, own, end = tl.load(place) + tl.program_id(2) * ROWS, tl.load(place + 1), tl.load(place + 2)
    before, until = tl.load(place + 3), tl.load(place + 4)
    head = tl.program_id(1)
    key_head = head // group
    row = start + tl.arange(0, ROWS)
    mine = _tile(q, row, q_row, head, end, size, WIDE)
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    found = tl.zeros((ROWS, WIDE), tl.float32)
    for at in range(before, until, ROWS):
        key = at + tl.arange(0, ROWS)
        ks, vs = _tile(k, key, k_row, key_head, until, size, WIDE), _tile(v, key, v_row, key_head, until, size, WIDE)
        most, total, found = _more(mine, ks, vs, most, total, found, (key < until)[None, :], scale)
    for at in range(own, start + ROWS, ROWS):
        key = at + tl.arange(0, ROWS)
        ks, vs = _tile(k, key, k_row, key_head, end, size, WIDE), _tile(v, key, v_row, key_head, end, size, WIDE)
        most, total, found = _more(mine, ks, vs, most, total, found, key[None, :] <= row[:, None], scale)
    _put(out, found / total[:, None], row, heads * size, head, end, size, WIDE)
    tl.store(lse + head * tokens + row, most + tl.log2(total), mask=row < end)


@triton.jit
def _slope(q, k, do, v, lse, delta, seen, found, scale):
    """Adds to the gradient of some queries what comes from some keys."""
    p = tl.where(seen, tl.exp2(tl.dot(q, tl.trans(k)) * (scale * LOG2E) - lse[:, None]), 0.0)
    ds = p * (tl.dot(do, tl.trans(v)) - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, found)


@triton.jit
def _query_kernel(
    grad, q, k, v, out, lse, delta, dq, blocks, tokens, scale, q_row, k_row, v_row, dq_row, group: tl.constexpr,
    heads: tl.constexpr, size: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    place = blocks + tl.program_id(0) * 5
    start, own, end = tl.load(place) + tl.program_id(2) * ROWS, tl.load(place + 1), tl.load(place + 2)
    before, until = tl.load(place + 3), tl.load(place + 4)
    head = tl.program_id(1)
    key_head = head // group
    row = start + tl.arange(0, ROWS)
    mine = _tile(q, row, q_row, head, end, size, WIDE)
    do = _tile(grad, row, heads * size, head, end, size, WIDE)
    o = _tile(out, row, heads * size, head, end, size, WIDE)
    d = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + head * tokens + row, d, mask=row < end)
    sums = tl.load(lse + head * tokens + row, mask=row < end, other=0.0)
    found = tl.zeros((ROWS, WIDE), tl.float32)
    for at in range(before, until, ROWS):
        key = at + tl.arange(0, ROWS)
        ks, vs = _tile(k, key, k_row, key_head, until, size, WIDE), _tile(v, key, v_row, key_head, until, size, WIDE)
        found = _slope(mine, ks, do, vs, sums, d, (key < until)[None, :], found, scale)
    for at in range(own, start + ROWS, ROWS):
        key = at + tl.arange(0, ROWS)
        ks, vs = _tile(k, key, k_row, key_head, end, size, WIDE), _tile(v, key, v_row, key_head, end, size, WIDE)
        found = _slope(mine, ks, do, vs, sums, d, key[None, :] <= row[:, None], found, scale)
    _put(dq, found * scale, row, dq_row, head, end, size, WIDE)


@triton.jit
def _of_keys(
    grad, q, k, v, lse, delta, key, until, begin, end, tokens, scale, q_row, k_row, v_row, OWN: tl.constexpr,
    group: tl.constexpr, heads: tl.constexpr, size: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of some keys and values, from the queries `begin` to `end`. OWN: of the keys' own row, in its order."""
    key_head = tl.program_id(1)
    ks, vs = _tile(k, key, k_row, key_head, until, size, WIDE), _tile(v, key, v_row, key_head, until, size, WIDE)
    to_k = tl.zeros((ROWS, WIDE), tl.float32)
    to_v = tl.zeros((ROWS, WIDE), tl.float32)
    for n in range(group):
        head = key_head * group + n
        for at in range(begin, end, ROWS):
            row = at + tl.arange(0, ROWS)
            mine = _tile(q, row, q_row, head, end, size, WIDE)
            do = _tile(grad, row, heads * size, head, end, size, WIDE)
            sums = tl.load(lse + head * tokens + row, mask=row < end, other=0.0)
            d = tl.load(delta + head * tokens + row, mask=row < end, other=0.0)
            seen = key[:, None] <= row[None, :] if OWN else (key < until)[:, None]
            s = tl.dot(ks, tl.trans(mine)) * (scale * LOG2E)
            p = tl.where(seen & (row < end)[None, :], tl.exp2(s - sums[None, :]), 0.0)
            ds = p * (tl.dot(vs, tl.trans(do)) - d[None, :])
            to_v = tl.dot(p.to(do.dtype), do, to_v)
            to_k = tl.dot(ds.to(mine.dtype), mine, to_k)
    return to_k * scale, to_v


@triton.jit
def _key_kernel(
    grad, q, k, v, lse, delta, dk, dv, blocks, tokens, scale, q_row, k_row, v_row, dk_row, dv_row,
    group: tl.constexpr, heads: tl.constexpr, size: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Own tokens' keys, from the queries at and behind them."""
    place = blocks + tl.program_id(0) * 5
    start, end = tl.load(place) + tl.program_id(2) * ROWS, tl.load(place + 2)
    key = start + tl.arange(0, ROWS)
    to_k, to_v = _of_keys(
        grad, q, k, v, lse, delta, key, end, start, end, tokens, scale, q_row, k_row, v_row, True,
        group, heads, size, WIDE, ROWS,
    )  # fmt: skip
    _put(dk, to_k, key, dk_row, tl.program_id(1), end, size, WIDE)
    _put(dv, to_v, key, dv_row, tl.program_id(1), end, size, WIDE)


@triton.jit
def _preamble_kernel(
    grad, q, k, v, lse, delta, to_k, to_v, pieces, tokens, scale, q_row, k_row, v_row, group: tl.constexpr,
    heads: tl.constexpr, size: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A preamble's keys, from a piece of the queries of its rows."""
    place = pieces + tl.program_id(0) * 5
    begin, end, part = tl.load(place), tl.load(place + 1), tl.program_id(2) * ROWS
    start, until, write = tl.load(place + 2) + part, tl.load(place + 3), tl.load(place + 4) + part
    sum_k, sum_v = _of_keys(
        grad, q, k, v, lse, delta, start + tl.arange(0, ROWS), until, begin, end, tokens, scale, q_row, k_row, v_row,
        False, group, heads, size, WIDE, ROWS,
    )  # fmt: skip
    line, last = write + tl.arange(0, ROWS), write + until - start
    _put(to_k, sum_k, line, heads // group * size, tl.program_id(1), last, size, WIDE)
    _put(to_v, sum_v, line, heads // group * size, tl.program_id(1), last, size, WIDE)


@triton.jit
def _fold_kernel(dk, dv, to_k, to_v, folds, dk_row, dv_row, width, WIDE: tl.constexpr):
    """Adds the sums of all pieces to a preamble token's own gradient."""
    token = tl.program_id(0).to(tl.int64)
    first, apart, count = tl.load(folds + token * 3), tl.load(folds + token * 3 + 1), tl.load(folds + token * 3 + 2)
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    there = at < width
    sum_k = tl.load(dk + token * dk_row + at, mask=there, other=0.0).to(tl.float32)
    sum_v = tl.load(dv + token * dv_row + at, mask=there, other=0.0).to(tl.float32)
    for n in range(count):
        line = (first + n * apart).to(tl.int64) * width + at
        sum_k += tl.load(to_k + line, mask=there, other=0.0)
        sum_v += tl.load(to_v + line, mask=there, other=0.0)
    tl.store(dk + token * dk_row + at, sum_k, mask=there)
    tl.store(dv + token * dv_row + at, sum_v, mask=there)


def _shape(q: torch.Tensor, k: torch.Tensor) -> dict[str, int]:
    """Of q and k, and the tile. Wide heads take half a block at once, or consumer cards have no room for it."""
    size = q.shape[2]
    assert all(t.stride(1) == size and t.stride(2) == 1 for t in (q, k))
    wide = max(16, triton.next_power_of_2(size))
    return {"group": q.shape[1] // k.shape[1], "heads": q.shape[1], "size": size, "WIDE": wide,
            "ROWS": TILE if wide <= 128 else TILE // 2}  # fmt: skip


def _warps(shape: dict[str, int]) -> int:
    return 8 if shape["WIDE"] > 128 else 4


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float, warps: int = 0, stages: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """out (tokens, heads, size) and l in base 2, (heads, tokens) in float32. q (tokens, heads, size), k and v (tokens,
    key heads, size), any stride between tokens."""
    (tokens, heads, _), shape = q.shape, _shape(q, k)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((heads, tokens), dtype=torch.float32, device=q.device)
    _forward_kernel[len(layout.blocks), heads, TILE // shape["ROWS"]](
        q, k, v, out, lse, layout.blocks, tokens, scale, q.stride(0), k.stride(0), v.stride(0), **shape,
        num_warps=warps or _warps(shape), num_stages=stages,
    )  # fmt: skip
    return out, lse


def attend_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
    layout: Layout, scale: float, made: Sequence[torch.Tensor],
    warps: tuple[int, int, int] = (0, 0, 0), stages: tuple[int, int, int] = (2, 0, 2),
) -> None:  # fmt: skip
    """Writes the gradients of q, k and v into `made`, shaped as they are, any stride between tokens."""
    tokens, heads, size = q.shape
    (dq, dk, dv), key_heads, shape = made, k.shape[1], _shape(q, k)
    parts = TILE // shape["ROWS"]
    delta = torch.empty_like(lse)
    rows = q.stride(0), k.stride(0), v.stride(0)
    _query_kernel[len(layout.blocks), heads, parts](
        grad, q, k, v, out, lse, delta, dq, layout.blocks, tokens, scale, *rows, dq.stride(0), **shape,
        num_warps=warps[0] or _warps(shape), num_stages=stages[0],
    )  # fmt: skip
    _key_kernel[len(layout.blocks), key_heads, parts](
        grad, q, k, v, lse, delta, dk, dv, layout.blocks, tokens, scale, *rows, dk.stride(0), dv.stride(0), **shape,
        num_warps=warps[1] or _warps(shape), num_stages=stages[1] or (2 if shape["WIDE"] > 64 else 1),
    )  # fmt: skip
    if not layout.lines:
        return
    to_k, to_v = torch.empty((2, layout.lines, key_heads * size), dtype=torch.float32, device=q.device)
    _preamble_kernel[len(layout.pieces), key_heads, parts](
        grad, q, k, v, lse, delta, to_k, to_v, layout.pieces, tokens, scale, *rows, **shape,
        num_warps=warps[2] or _warps(shape), num_stages=stages[2],
    )  # fmt: skip
    width = key_heads * size
    _fold_kernel[len(layout.folds), triton.cdiv(width, 512)](
        dk, dv, to_k, to_v, layout.folds, dk.stride(0), dv.stride(0), width, WIDE=512
    )
