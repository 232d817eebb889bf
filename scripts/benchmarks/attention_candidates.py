"""Variants of the attention kernels for long rows, to be timed by `bench_long.py`; the pipeline does not use them.

Against triton_attention.py: tiles of more queries than keys, loads in several stages, and masks only where a tile has
hidden keys (the preamble's last tile and the diagonal), so that the scale and the maximum of all others are one fused
multiplication and subtraction. Formulas as in attention.py, tiles as in layout.py; sums in the same fixed order.

               preamble          earlier keys of the row       diagonal
    queries   | N | N | masked | N | N | N | N | N | N | N | masked, N at a time |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from pipeline.kernels.layout import query_tiles_of
from pipeline.kernels.triton_attention import LOG2E, _load, _store
from pipeline.prompt.pack import Pack


@dataclass(frozen=True)
class Tiles:
    """queries, keys: of a tile; the larger one divided by the smaller one is whole. longest_first: programs with the
    most to do start first, so that no long one is left at the end."""

    queries: int
    keys: int
    warps: int
    stages: int
    longest_first: bool = False

    def __str__(self) -> str:
        order = ", longest first" if self.longest_first else ""
        return f"{self.queries} queries x {self.keys} keys, {self.warps} warps, {self.stages} stages{order}"

    def table(self, pack: Pack, device: torch.device, of_keys: bool = False) -> torch.Tensor:
        """`Layout.query_tiles` with `queries` tokens in a tile; with `keys` of them for `key_gradients`."""
        tiles = query_tiles_of(pack, self.keys if of_keys else self.queries)
        if self.longest_first:
            work = tiles[:, 2] - tiles[:, 0] if of_keys else tiles[:, 0] - tiles[:, 1]
            tiles = tiles[np.argsort(-work, kind="stable")]
        return torch.as_tensor(np.ascontiguousarray(tiles), dtype=torch.int32).to(device)


@triton.jit
def _seen(q, k, v, m_i, l_i, acc, c):
    """Online softmax over a tile of keys that all queries see."""
    s = tl.dot(q, tl.trans(k))
    new = tl.maximum(m_i, tl.max(s, 1) * c)
    p = tl.exp2(s * c - new[:, None])
    old = tl.exp2(m_i - new)
    return new, l_i * old + tl.sum(p, 1), tl.dot(p.to(v.dtype), v, acc * old[:, None])


@triton.jit
def _masked(q, k, v, m_i, l_i, acc, c, mask):
    s = tl.where(mask, tl.dot(q, tl.trans(k)) * c, float("-inf"))
    new = tl.maximum(m_i, tl.max(s, 1))
    p = tl.exp2(s - new[:, None])
    old = tl.exp2(m_i - new)
    return new, l_i * old + tl.sum(p, 1), tl.dot(p.to(v.dtype), v, acc * old[:, None])


@triton.jit
def _forward_kernel(
    q, k, v, out, lse, tiles, tokens, scale, q_row, k_row, v_row, group: tl.constexpr, heads: tl.constexpr,
    size: tl.constexpr, PADDED: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    tile = tiles + tl.program_id(0) * 5
    start, own, end = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    shared, shared_end = tl.load(tile + 3), tl.load(tile + 4)
    head = tl.program_id(1)
    key_head = head // group
    query = start + tl.arange(0, M)
    q_tile = _load(q, query, q_row, head, end, size, PADDED)
    c = scale * LOG2E
    m_i = tl.full((M,), float("-inf"), tl.float32)
    l_i = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, PADDED), tl.float32)
    for at in range(shared, shared_end, N):
        key = at + tl.arange(0, N)
        k_tile = _load(k, key, k_row, key_head, shared_end, size, PADDED)
        v_tile = _load(v, key, v_row, key_head, shared_end, size, PADDED)
        m_i, l_i, acc = _masked(q_tile, k_tile, v_tile, m_i, l_i, acc, c, (key < shared_end)[None, :])
    for at in range(own, start, N):
        key = at + tl.arange(0, N)
        k_tile = _load(k, key, k_row, key_head, tokens, size, PADDED)
        v_tile = _load(v, key, v_row, key_head, tokens, size, PADDED)
        m_i, l_i, acc = _seen(q_tile, k_tile, v_tile, m_i, l_i, acc, c)
    for at in range(start, tl.minimum(start + M, end), N):
        key = at + tl.arange(0, N)
        k_tile = _load(k, key, k_row, key_head, end, size, PADDED)
        v_tile = _load(v, key, v_row, key_head, end, size, PADDED)
        m_i, l_i, acc = _masked(q_tile, k_tile, v_tile, m_i, l_i, acc, c, key[None, :] <= query[:, None])
    _store(out, acc / l_i[:, None], query, heads * size, head, end, size, PADDED)
    tl.store(lse + head * tokens + query, m_i + tl.log2(l_i), mask=query < end)


@triton.jit
def _query_gradient_kernel(
    grad, q, k, v, out, lse, delta, dq, tiles, tokens, scale, q_row, k_row, v_row, dq_row, group: tl.constexpr,
    heads: tl.constexpr, size: tl.constexpr, PADDED: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    tile = tiles + tl.program_id(0) * 5
    start, own, end = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    shared, shared_end = tl.load(tile + 3), tl.load(tile + 4)
    head = tl.program_id(1)
    key_head = head // group
    query = start + tl.arange(0, M)
    q_tile = _load(q, query, q_row, head, end, size, PADDED)
    do = _load(grad, query, heads * size, head, end, size, PADDED)
    o = _load(out, query, heads * size, head, end, size, PADDED)
    delta_tile = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + head * tokens + query, delta_tile, mask=query < end)
    lse_tile = tl.load(lse + head * tokens + query, mask=query < end, other=0.0)
    c = scale * LOG2E
    acc = tl.zeros((M, PADDED), tl.float32)
    for at in range(shared, shared_end, N):
        key = at + tl.arange(0, N)
        k_tile = _load(k, key, k_row, key_head, shared_end, size, PADDED)
        v_tile = _load(v, key, v_row, key_head, shared_end, size, PADDED)
        # No mask: keys from the end on are zeros, so whatever their share is, they add zero.
        p = tl.exp2(tl.dot(q_tile, tl.trans(k_tile)) * c - lse_tile[:, None])
        ds = p * (tl.dot(do, tl.trans(v_tile)) - delta_tile[:, None])
        acc = tl.dot(ds.to(k_tile.dtype), k_tile, acc)
    for at in range(own, start, N):
        key = at + tl.arange(0, N)
        k_tile = _load(k, key, k_row, key_head, tokens, size, PADDED)
        v_tile = _load(v, key, v_row, key_head, tokens, size, PADDED)
        p = tl.exp2(tl.dot(q_tile, tl.trans(k_tile)) * c - lse_tile[:, None])
        ds = p * (tl.dot(do, tl.trans(v_tile)) - delta_tile[:, None])
        acc = tl.dot(ds.to(k_tile.dtype), k_tile, acc)
    for at in range(start, tl.minimum(start + M, end), N):
        key = at + tl.arange(0, N)
        k_tile = _load(k, key, k_row, key_head, end, size, PADDED)
        v_tile = _load(v, key, v_row, key_head, end, size, PADDED)
        p = tl.exp2(tl.dot(q_tile, tl.trans(k_tile)) * c - lse_tile[:, None])
        p = tl.where(key[None, :] <= query[:, None], p, 0.0)
        ds = p * (tl.dot(do, tl.trans(v_tile)) - delta_tile[:, None])
        acc = tl.dot(ds.to(k_tile.dtype), k_tile, acc)
    _store(dq, acc * scale, query, dq_row, head, end, size, PADDED)


@triton.jit
def _own_key_gradient_kernel(
    grad, q, k, v, lse, delta, dk, dv, tiles, tokens, scale, q_row, k_row, v_row, dk_row, dv_row,
    group: tl.constexpr, heads: tl.constexpr, size: tl.constexpr, PADDED: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """dk and dv of N keys, from the queries at and after them in their segment, M at a time."""
    tile = tiles + tl.program_id(0) * 5
    start, end = tl.load(tile), tl.load(tile + 2)
    key = start + tl.arange(0, N)
    key_head = tl.program_id(1)
    k_tile = _load(k, key, k_row, key_head, end, size, PADDED)
    v_tile = _load(v, key, v_row, key_head, end, size, PADDED)
    c = scale * LOG2E
    dk_sum = tl.zeros((N, PADDED), tl.float32)
    dv_sum = tl.zeros((N, PADDED), tl.float32)
    for n in range(group):
        head = key_head * group + n
        for at in range(start, tl.minimum(start + N, end), M):
            query = at + tl.arange(0, M)
            q_tile = _load(q, query, q_row, head, end, size, PADDED)
            do = _load(grad, query, heads * size, head, end, size, PADDED)
            lse_tile = tl.load(lse + head * tokens + query, mask=query < end, other=0.0)
            delta_tile = tl.load(delta + head * tokens + query, mask=query < end, other=0.0)
            p = tl.exp2(tl.dot(k_tile, tl.trans(q_tile)) * c - lse_tile[None, :])
            p = tl.where(key[:, None] <= query[None, :], p, 0.0)
            ds = p * (tl.dot(v_tile, tl.trans(do)) - delta_tile[None, :])
            dv_sum = tl.dot(p.to(do.dtype), do, dv_sum)
            dk_sum = tl.dot(ds.to(q_tile.dtype), q_tile, dk_sum)
        # No mask: a query from the end on has p = 1, and adds nothing, since its gradient, q and delta are zeros.
        for at in range(start + N, end, M):
            query = at + tl.arange(0, M)
            q_tile = _load(q, query, q_row, head, end, size, PADDED)
            do = _load(grad, query, heads * size, head, end, size, PADDED)
            lse_tile = tl.load(lse + head * tokens + query, mask=query < end, other=0.0)
            delta_tile = tl.load(delta + head * tokens + query, mask=query < end, other=0.0)
            p = tl.exp2(tl.dot(k_tile, tl.trans(q_tile)) * c - lse_tile[None, :])
            ds = p * (tl.dot(v_tile, tl.trans(do)) - delta_tile[None, :])
            dv_sum = tl.dot(p.to(do.dtype), do, dv_sum)
            dk_sum = tl.dot(ds.to(q_tile.dtype), q_tile, dk_sum)
    _store(dk, dk_sum * scale, key, dk_row, key_head, end, size, PADDED)
    _store(dv, dv_sum, key, dv_row, key_head, end, size, PADDED)


def _shape(q: torch.Tensor, k: torch.Tensor, tiles: Tiles) -> dict[str, int]:
    padded = max(16, triton.next_power_of_2(q.shape[2]))
    return {"group": q.shape[1] // k.shape[1], "heads": q.shape[1], "size": q.shape[2], "PADDED": padded,
            "M": tiles.queries, "N": tiles.keys, "num_warps": tiles.warps, "num_stages": tiles.stages}  # fmt: skip


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, tiles: Tiles, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `triton_attention.attend`. table: of `tiles.queries` tokens, which `tiles.keys` divides."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], len(q), dtype=torch.float32, device=q.device)
    _forward_kernel[len(table), q.shape[1]](
        q, k, v, out, lse, table, len(q), scale, q.stride(0), k.stride(0), v.stride(0), **_shape(q, k, tiles)
    )
    return out, lse


def query_gradient(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
    table: torch.Tensor, tiles: Tiles, scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """dq, and D_i for `key_gradients`. table: as in `forward`."""
    dq, delta = torch.empty_like(q), torch.empty_like(lse)
    _query_gradient_kernel[len(table), q.shape[1]](
        grad, q, k, v, out, lse, delta, dq, table, len(q), scale, q.stride(0), k.stride(0), v.stride(0), dq.stride(0),
        **_shape(q, k, tiles),
    )  # fmt: skip
    return dq, delta


def key_gradients(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lse: torch.Tensor, delta: torch.Tensor,
    table: torch.Tensor, tiles: Tiles, scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """dk and dv of own tokens. table: of `tiles.keys` tokens, which `tiles.queries` divides."""
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    _own_key_gradient_kernel[len(table), k.shape[1]](
        grad, q, k, v, lse, delta, dk, dv, table, len(q), scale, q.stride(0), k.stride(0), v.stride(0), dk.stride(0),
        dv.stride(0), **_shape(q, k, tiles),
    )  # fmt: skip
    return dk, dv
