"""Triton's backward pass of attention, after triton_attention.py.

    _query_gradient_kernel       dq, a program a tile of queries; also delta = sum(o * do) of each query
    _own_key_gradient_kernel     dk and dv of a segment's own tokens, a program a tile of keys
    _preamble_gradient_kernel    dk and dv of a preamble's tokens, partial sums: a program a tile and chunk of queries
    _reduction_kernel            adds the partial sums, in a fixed order

All sums are in float32 and deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from pipeline.kernels.layout import TILE, Layout
from pipeline.kernels.triton_attention_tiles import LOG2E, kernel_shape, load_tile, queries_of, store_tile, warps


@triton.jit
def _add_dq(q, k, do, v, lse, delta, mask, acc, scale, MASKED: tl.constexpr):
    """Adds the contribution of one tile of keys to dq."""
    p = tl.exp2(tl.dot(q, tl.trans(k)) * (scale * LOG2E) - lse[:, None])
    if MASKED:
        p = tl.where(mask, p, 0.0)
    ds = p * (tl.dot(do, tl.trans(v)) - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, acc)


@triton.jit
def _query_gradient_kernel(
    grad, q, k, v, out, lse, delta, dq, query_tiles, tokens, scale, q_row, k_row, v_row, dq_row, group: tl.constexpr,
    heads: tl.constexpr, size: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """QUERIES, BLOCK: as in `_forward_kernel`."""
    tile = query_tiles + tl.program_id(0) * 5
    start, own, end = tl.load(tile) + tl.program_id(2) * QUERIES, tl.load(tile + 1), tl.load(tile + 2)
    shared, shared_end = tl.load(tile + 3), tl.load(tile + 4)
    head = tl.program_id(1)
    key_head = head // group
    query = start + tl.arange(0, QUERIES)
    q_tile = load_tile(q, query, q_row, head, end, size, PADDED)
    do = load_tile(grad, query, heads * size, head, end, size, PADDED)
    o = load_tile(out, query, heads * size, head, end, size, PADDED)
    delta_tile = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + head * tokens + query, delta_tile, mask=query < end)
    lse_tile = tl.load(lse + head * tokens + query, mask=query < end, other=0.0)
    acc = tl.zeros((QUERIES, PADDED), tl.float32)
    for at in range(shared, shared_end, BLOCK):
        key = at + tl.arange(0, BLOCK)
        k_tile = load_tile(k, key, k_row, key_head, shared_end, size, PADDED)
        v_tile = load_tile(v, key, v_row, key_head, shared_end, size, PADDED)
        seen = (key < shared_end)[None, :]
        acc = _add_dq(q_tile, k_tile, do, v_tile, lse_tile, delta_tile, seen, acc, scale, True)
    for at in range(own, start, BLOCK):  # whole tiles that all queries see
        key = at + tl.arange(0, BLOCK)
        k_tile = load_tile(k, key, k_row, key_head, tokens, size, PADDED)
        v_tile = load_tile(v, key, v_row, key_head, tokens, size, PADDED)
        acc = _add_dq(q_tile, k_tile, do, v_tile, lse_tile, delta_tile, None, acc, scale, False)
    for at in range(start, tl.minimum(start + QUERIES, end), BLOCK):
        key = at + tl.arange(0, BLOCK)
        k_tile = load_tile(k, key, k_row, key_head, end, size, PADDED)
        v_tile = load_tile(v, key, v_row, key_head, end, size, PADDED)
        seen = key[None, :] <= query[:, None]
        acc = _add_dq(q_tile, k_tile, do, v_tile, lse_tile, delta_tile, seen, acc, scale, True)
    store_tile(dq, acc * scale, query, dq_row, head, end, size, PADDED)


@triton.jit
def _add_dk_dv(
    grad, q, lse, delta, k_tile, v_tile, query, head, end, mask, dk_sum, dv_sum, tokens, scale, q_row,
    MASKED: tl.constexpr, heads: tl.constexpr, size: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Adds the contribution of one tile of queries to dk and dv of a tile of keys."""
    q_tile = load_tile(q, query, q_row, head, end, size, PADDED)
    do = load_tile(grad, query, heads * size, head, end, size, PADDED)
    lse_tile = tl.load(lse + head * tokens + query, mask=query < end, other=0.0)
    delta_tile = tl.load(delta + head * tokens + query, mask=query < end, other=0.0)
    p = tl.exp2(tl.dot(k_tile, tl.trans(q_tile)) * (scale * LOG2E) - lse_tile[None, :])
    if MASKED:
        p = tl.where(mask, p, 0.0)
    ds = p * (tl.dot(v_tile, tl.trans(do)) - delta_tile[None, :])
    return tl.dot(ds.to(q_tile.dtype), q_tile, dk_sum), tl.dot(p.to(do.dtype), do, dv_sum)


@triton.jit
def _key_gradients(
    grad, q, k, v, lse, delta, key, key_end, begin, end, tokens, scale, q_row, k_row, v_row, OWN: tl.constexpr,
    group: tl.constexpr, heads: tl.constexpr, size: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dk and dv of a tile of keys, summed over queries `begin` to `end`. OWN: of the same segment, so causal."""
    key_head = tl.program_id(1)
    k_tile = load_tile(k, key, k_row, key_head, key_end, size, PADDED)
    v_tile = load_tile(v, key, v_row, key_head, key_end, size, PADDED)
    dk_sum = tl.zeros((BLOCK, PADDED), tl.float32)
    dv_sum = tl.zeros((BLOCK, PADDED), tl.float32)
    masked_end = tl.minimum(begin + BLOCK, end) if OWN else end
    for n in range(group):
        head = key_head * group + n
        for at in range(begin, masked_end, BLOCK):
            query = at + tl.arange(0, BLOCK)
            mask = key[:, None] <= query[None, :] if OWN else (key < key_end)[:, None]
            dk_sum, dv_sum = _add_dk_dv(
                grad, q, lse, delta, k_tile, v_tile, query, head, end, mask & (query < end)[None, :], dk_sum, dv_sum,
                tokens, scale, q_row, True, heads, size, PADDED,
            )  # fmt: skip
        # Later queries see all keys of the tile. One from the end on adds zero, since q, its gradient, lse and delta
        # are loaded as zeros.
        for at in range(masked_end, end, BLOCK):
            query = at + tl.arange(0, BLOCK)
            dk_sum, dv_sum = _add_dk_dv(
                grad, q, lse, delta, k_tile, v_tile, query, head, end, None, dk_sum, dv_sum, tokens, scale, q_row,
                False, heads, size, PADDED,
            )  # fmt: skip
    return dk_sum * scale, dv_sum


@triton.jit
def _own_key_gradient_kernel(
    grad, q, k, v, lse, delta, dk, dv, query_tiles, tokens, scale, q_row, k_row, v_row, dk_row, dv_row,
    group: tl.constexpr, heads: tl.constexpr, size: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dk and dv of a tile of own tokens, from the queries at and after them in their segment."""
    tile = query_tiles + tl.program_id(0) * 5
    start, end = tl.load(tile) + tl.program_id(2) * BLOCK, tl.load(tile + 2)
    key = start + tl.arange(0, BLOCK)
    dk_sum, dv_sum = _key_gradients(
        grad, q, k, v, lse, delta, key, end, start, end, tokens, scale, q_row, k_row, v_row, True,
        group, heads, size, PADDED, BLOCK,
    )  # fmt: skip
    store_tile(dk, dk_sum, key, dk_row, tl.program_id(1), end, size, PADDED)
    store_tile(dv, dv_sum, key, dv_row, tl.program_id(1), end, size, PADDED)


@triton.jit
def _preamble_gradient_kernel(
    grad, q, k, v, lse, delta, dk_partial, dv_partial, preamble_tiles, tokens, scale, q_row, k_row, v_row,
    group: tl.constexpr, heads: tl.constexpr, size: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums of dk and dv of a tile of a preamble's tokens, from one chunk of queries."""
    tile = preamble_tiles + tl.program_id(0) * 5
    begin, end, part = tl.load(tile), tl.load(tile + 1), tl.program_id(2) * BLOCK
    start, key_end, write = tl.load(tile + 2) + part, tl.load(tile + 3), tl.load(tile + 4) + part
    dk_sum, dv_sum = _key_gradients(
        grad, q, k, v, lse, delta, start + tl.arange(0, BLOCK), key_end, begin, end, tokens, scale, q_row, k_row, v_row,
        False, group, heads, size, PADDED, BLOCK,
    )  # fmt: skip
    index, last = write + tl.arange(0, BLOCK), write + key_end - start
    store_tile(dk_partial, dk_sum, index, heads // group * size, tl.program_id(1), last, size, PADDED)
    store_tile(dv_partial, dv_sum, index, heads // group * size, tl.program_id(1), last, size, PADDED)


@triton.jit
def _reduction_kernel(dk, dv, dk_partial, dv_partial, reductions, dk_row, dv_row, width, BLOCK: tl.constexpr):
    """Adds the partial sums of a preamble token to its gradient."""
    token = tl.program_id(0).to(tl.int64)
    entry = reductions + token * 3
    first, distance, count = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    dk_sum = tl.load(dk + token * dk_row + at, mask=inside, other=0.0).to(tl.float32)
    dv_sum = tl.load(dv + token * dv_row + at, mask=inside, other=0.0).to(tl.float32)
    for n in range(count):
        partial = (first + n * distance).to(tl.int64) * width + at
        dk_sum += tl.load(dk_partial + partial, mask=inside, other=0.0)
        dv_sum += tl.load(dv_partial + partial, mask=inside, other=0.0)
    tl.store(dk + token * dk_row + at, dk_sum, mask=inside)
    tl.store(dv + token * dv_row + at, dv_sum, mask=inside)


def attend_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
    layout: Layout, scale: float, gradients: Sequence[torch.Tensor],
) -> None:  # fmt: skip
    """Writes the gradients of q, k and v into `gradients`, of the same shapes, any stride between tokens."""
    tokens, heads, size = q.shape
    (dq, dk, dv), key_heads, shape = gradients, k.shape[1], kernel_shape(q, k)
    parts = TILE // shape["BLOCK"]
    delta = torch.empty_like(lse)
    strides = q.stride(0), k.stride(0), v.stride(0)
    tiles, sizes = queries_of(layout, shape, stages=2)
    _query_gradient_kernel[len(tiles), heads, max(1, TILE // sizes["QUERIES"])](
        grad, q, k, v, out, lse, delta, dq, tiles, tokens, scale, *strides, dq.stride(0), **sizes
    )
    _own_key_gradient_kernel[len(layout.query_tiles), key_heads, parts](
        grad, q, k, v, lse, delta, dk, dv, layout.query_tiles, tokens, scale, *strides, dk.stride(0), dv.stride(0),
        **shape, num_warps=warps(shape), num_stages=2 if shape["PADDED"] > 64 else 1,
    )  # fmt: skip
    if not layout.partial_sums:
        return
    width = key_heads * size
    dk_partial, dv_partial = torch.empty((2, layout.partial_sums, width), dtype=torch.float32, device=q.device)
    _preamble_gradient_kernel[len(layout.preamble_tiles), key_heads, parts](
        grad, q, k, v, lse, delta, dk_partial, dv_partial, layout.preamble_tiles, tokens, scale, *strides, **shape,
        num_warps=warps(shape), num_stages=2,
    )  # fmt: skip
    _reduction_kernel[len(layout.reductions), triton.cdiv(width, 512)](
        dk, dv, dk_partial, dv_partial, layout.reductions, dk.stride(0), dv.stride(0), width, BLOCK=512
    )
