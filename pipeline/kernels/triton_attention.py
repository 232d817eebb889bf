"""Triton's forward pass of attention. The formulas and the plain version are in attention.py, the tiles in layout.py;
triton_attention_gradients.py has the backward pass.

All sums are in float32 and deterministic. Scores and their log-sums are in base 2. docs/benchmarks.md compares the
speed with torch's variable-length flash attention.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.layout import TILE, Layout
from pipeline.kernels.triton_attention_tiles import LOG2E, kernel_shape, load_tile, queries_of, store_tile


@triton.jit
def _softmax_step(q, k, v, m_i, l_i, acc, mask, scale):
    """Online softmax over one tile of keys. m_i: running maximum, l_i: running sum of exponentials, both in base 2."""
    s = tl.where(mask, tl.dot(q, tl.trans(k)) * (scale * LOG2E), float("-inf"))
    new = tl.maximum(m_i, tl.max(s, 1))
    p = tl.exp2(s - new[:, None])
    old = tl.exp2(m_i - new)
    return new, l_i * old + tl.sum(p, 1), tl.dot(p.to(v.dtype), v, acc * old[:, None])


@triton.jit
def _unmasked_step(q, k, v, m_i, l_i, acc, scale):
    """As `_softmax_step`. Scale and maximum are one multiplication with an addition where no mask is between them."""
    s = tl.dot(q, tl.trans(k))
    new = tl.maximum(m_i, tl.max(s, 1) * (scale * LOG2E))
    p = tl.exp2(s * (scale * LOG2E) - new[:, None])
    old = tl.exp2(m_i - new)
    return new, l_i * old + tl.sum(p, 1), tl.dot(p.to(v.dtype), v, acc * old[:, None])


@triton.jit
def _forward_kernel(
    q, k, v, out, lse, query_tiles, tokens, scale, q_row, k_row, v_row, group: tl.constexpr, heads: tl.constexpr,
    size: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """QUERIES: of a program, `BLOCK` times a whole number; BLOCK: keys at a time."""
    tile = query_tiles + tl.program_id(0) * 5
    start, own, end = tl.load(tile) + tl.program_id(2) * QUERIES, tl.load(tile + 1), tl.load(tile + 2)
    shared, shared_end = tl.load(tile + 3), tl.load(tile + 4)
    head = tl.program_id(1)
    key_head = head // group
    query = start + tl.arange(0, QUERIES)
    q_tile = load_tile(q, query, q_row, head, end, size, PADDED)
    m_i = tl.full((QUERIES,), float("-inf"), tl.float32)
    l_i = tl.zeros((QUERIES,), tl.float32)
    acc = tl.zeros((QUERIES, PADDED), tl.float32)
    for at in range(shared, shared_end, BLOCK):
        key = at + tl.arange(0, BLOCK)
        k_tile = load_tile(k, key, k_row, key_head, shared_end, size, PADDED)
        v_tile = load_tile(v, key, v_row, key_head, shared_end, size, PADDED)
        m_i, l_i, acc = _softmax_step(q_tile, k_tile, v_tile, m_i, l_i, acc, (key < shared_end)[None, :], scale)
    for at in range(own, start, BLOCK):  # whole tiles that all queries see
        key = at + tl.arange(0, BLOCK)
        k_tile = load_tile(k, key, k_row, key_head, tokens, size, PADDED)
        v_tile = load_tile(v, key, v_row, key_head, tokens, size, PADDED)
        m_i, l_i, acc = _unmasked_step(q_tile, k_tile, v_tile, m_i, l_i, acc, scale)
    for at in range(start, tl.minimum(start + QUERIES, end), BLOCK):
        key = at + tl.arange(0, BLOCK)
        k_tile = load_tile(k, key, k_row, key_head, end, size, PADDED)
        v_tile = load_tile(v, key, v_row, key_head, end, size, PADDED)
        m_i, l_i, acc = _softmax_step(q_tile, k_tile, v_tile, m_i, l_i, acc, key[None, :] <= query[:, None], scale)
    store_tile(out, acc / l_i[:, None], query, heads * size, head, end, size, PADDED)
    tl.store(lse + head * tokens + query, m_i + tl.log2(l_i), mask=query < end)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """o (tokens, heads, size) and l in base 2, float32 (heads, tokens). q (tokens, heads, size), k and v (tokens, key
    heads, size), any stride between tokens."""
    (tokens, heads, _), shape = q.shape, kernel_shape(q, k)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((heads, tokens), dtype=torch.float32, device=q.device)
    tiles, sizes = queries_of(layout, shape, stages=1)
    _forward_kernel[len(tiles), heads, max(1, TILE // sizes["QUERIES"])](
        q, k, v, out, lse, tiles, tokens, scale, q.stride(0), k.stride(0), v.stride(0), **sizes
    )
    return out, lse
