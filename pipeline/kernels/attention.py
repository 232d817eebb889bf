"""Attention within the segments of a pack, and of each row's own tokens to the preamble they share.

    s_ij = scale q_i k_j        for j in the preamble of i's row, and j <= i in its own tokens
    l_i  = log2 sum_j exp(s_ij),   p_ij = exp(s_ij) / 2^l_i,   o_i = sum_j p_ij v_j
    D_i  = do_i o_i,   ds_ij = p_ij (do_i v_j - D_i),   dq_i = scale sum_j ds_ij k_j
    dk_j = scale sum_i ds_ij q_i,   dv_j = sum_i p_ij do_i                        (Dao et al. 2022, without its tiling)

Rows of instruction data are short, about a hundred tokens, so on CUDA a program takes `TILE` queries of one row and one
head and sees all their keys, the preamble's first (gpu_attention.py). A preamble's keys belong to thousands of queries:
those are taken in pieces, whose sums are added up in a fixed order. `attend_plain` is the plain twin, for CPUs and for
tests: segments side by side, with a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.prompt.pack import Pack

TILE = 64  # queries, or keys, of a program
PIECE = 512  # queries whose gradients of a preamble's keys are one sum


class Room(NamedTuple):
    """Sizes of a layout."""

    blocks: int
    pieces: int
    lines: int


@dataclass(frozen=True)
class Layout:
    """Where the segments of a pack lie, on the device.

    blocks: int32, (blocks, 5), what a program takes: its first token, its segment's first and end, and those of its
    preamble (0, 0: none). pieces: int32, (pieces, 5): a piece's first query and end, the preamble's first key that a
    program takes and end, and the line where the sums for that key go. folds: int32, (tokens of preambles, 3): the
    first line of each one's sums, lines between them, how many. lines: of sums, in all.
    index, prefix: for the plain twin, see `_padded`.
    """

    blocks: torch.Tensor
    pieces: torch.Tensor
    folds: torch.Tensor
    lines: int
    index: torch.Tensor | None = None
    prefix: torch.Tensor | None = None

    @classmethod
    def of(cls, pack: Pack, device: torch.device, plain: bool, room: Room | None = None) -> Layout:
        """plain: for `attend_plain` instead of the kernels. room: for more than the pack has, where one layout's sizes
        stand for many; programs that get an empty block or piece do nothing."""
        (pieces, folds, lines), blocks = pieces_of(pack), blocks_of(pack)
        if room is not None:
            assert min(room.blocks - len(blocks), room.pieces - len(pieces), room.lines - lines) >= 0
            blocks = np.concatenate([blocks, np.zeros((room.blocks - len(blocks), 5), np.int64)])
            pieces = np.concatenate([pieces, np.zeros((room.pieces - len(pieces), 5), np.int64)])
            lines = room.lines
        index, prefix = _padded(pack) if plain else (None, None)

        def tensor(values: np.ndarray, kind: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), dtype=kind).to(device, non_blocking=True)

        return cls(
            blocks=tensor(blocks),
            pieces=tensor(pieces),
            folds=tensor(folds),
            lines=lines,
            index=None if index is None else tensor(index, torch.int64),
            prefix=None if prefix is None else tensor(prefix, torch.int64),
        )


def _groups(pack: Pack) -> np.ndarray:
    """Number of each segment's preamble, -1 for none; (segments,)."""
    group = np.searchsorted(pack.groups, pack.starts[:-1], side="right") - 1
    own = np.arange(len(group)) >= pack.preambles
    return np.where(own & (group >= 0) & (group < pack.preambles), group, -1)


def blocks_of(pack: Pack) -> np.ndarray:
    """`Layout.blocks`."""
    starts, group = pack.starts, _groups(pack)
    count = -(-np.diff(starts) // TILE)
    segment = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
    shared = np.stack([starts[group], starts[group + 1]]) * (group >= 0)
    first = starts[segment] + TILE * within
    return np.stack([first, starts[segment], starts[segment + 1], *shared[:, segment]], axis=1)


def pieces_of(pack: Pack) -> tuple[np.ndarray, np.ndarray, int]:
    """`Layout.pieces`, `folds` and `lines`."""
    pieces, folds, lines = [], [], 0
    for number in range(pack.preambles):
        begin, end = (int(b) for b in pack.groups[number : number + 2])
        start, until = (int(b) for b in pack.starts[number : number + 2])
        cuts = range(begin, end, PIECE)
        for n, cut in enumerate(cuts):
            for key in range(start, until, TILE):
                line = lines + n * (until - start) + key - start
                pieces.append((cut, min(cut + PIECE, end), key, until, line))
        folds += [(lines + n, until - start, len(cuts)) for n in range(until - start)]
        lines += (until - start) * len(cuts)
    return np.array(pieces, np.int64).reshape(-1, 5), np.array(folds, np.int64).reshape(-1, 3), lines


def pieces_at_most(pack: Pack, tokens: int) -> tuple[int, int]:
    """How many pieces and lines a pack with these preambles can have, if it has no more than so many tokens; 0, 0 where
    it has no preambles."""
    if not pack.preambles:
        return 0, 0
    longest = int(np.diff(pack.starts[: pack.preambles + 1]).max())
    cuts = tokens // PIECE + pack.preambles
    return cuts * -(-longest // TILE), cuts * longest


def _padded(pack: Pack) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each segment, (segments, longest), and of its preamble, (segments, longest preamble); -1 = none."""
    sizes = np.diff(pack.starts)
    index = pack.starts[:-1, None] + np.arange(sizes.max())
    index[np.arange(sizes.max()) >= sizes[:, None]] = -1
    count = pack.preambles
    widest = int(sizes[:count].max()) if count else 0
    prefix = np.full((len(sizes), widest), -1, np.int64)
    group = _groups(pack)
    for number in range(count):
        prefix[group == number, : sizes[number]] = np.arange(pack.starts[number], pack.starts[number + 1])
    return index, prefix


def attend_plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """The plain twin. q (tokens, heads, size), k and v (tokens, key heads, size) -> (tokens, heads, size)."""
    assert layout.index is not None
    assert layout.prefix is not None
    index, prefix = layout.index, layout.prefix
    there, before = index >= 0, prefix >= 0
    width = index.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=q.device).tril()
    mask = torch.cat([before[:, None].expand(-1, width, -1), causal & there[:, None]], dim=2)
    keys = torch.cat([prefix, index], dim=1).clamp(min=0)
    groups = q.shape[1] // k.shape[1]
    queries, k, v = (t.transpose(1, 2) for t in (q[index.clamp(min=0)], k[keys], v[keys]))
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(queries, k, v, mask[:, None], scale=scale)
    return out.transpose(1, 2)[there]


class Attention(torch.autograd.Function):
    """`gpu_attention.attend` with its gradient, for models whose own forward calls it."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, layout: Layout, scale: float) -> torch.Tensor:
        from pipeline.kernels import gpu_attention

        out, lse = gpu_attention.attend(q, k, v, layout, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        from pipeline.kernels import gpu_attention

        q, k, v, out, lse = ctx.saved_tensors
        made = tuple(torch.empty_like(t) for t in (q, k, v))
        gpu_attention.attend_backward(grad.contiguous(), q, k, v, out, lse, ctx.layout, ctx.scale, made)
        return *made, None, None


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """Differentiable. q (tokens, heads, size), k and v (tokens, key heads, size)."""
    if layout.index is None:
        found: torch.Tensor = Attention.apply(q.contiguous(), k.contiguous(), v.contiguous(), layout, scale)
        return found
    return attend_plain(q, k, v, layout, scale)
