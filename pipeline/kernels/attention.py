"""Attention within the segments of a pack, and of each row's own tokens to the preamble they share.

    s_ij = scale q_i k_j        for j in the preamble of i's row, and j <= i in its own tokens
    l_i  = log2 sum_j exp(s_ij),   p_ij = exp(s_ij) / 2^l_i,   o_i = sum_j p_ij v_j
    D_i  = do_i o_i,   ds_ij = p_ij (do_i v_j - D_i),   dq_i = scale sum_j ds_ij k_j
    dk_j = scale sum_i ds_ij q_i,   dv_j = sum_i p_ij do_i                        (Dao et al. 2022, without its tiling)

Rows of instruction data are short, about a hundred tokens, so on CUDA a program takes `TILE` queries of one row and one
head and sees all their keys, the preamble's first (gpu_attention.py). A preamble's keys belong to thousands of queries:
those are taken in pieces, whose sums are added up in a fixed order. `attend_plain` is the plain twin, for CPUs, float32
and tests: segments of about one length side by side, with a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.prompt.pack import Pack

TILE = 64  # queries, or keys, of a program
SHORT = 16  # tokens of the shortest segments that the plain twin takes apart from still shorter ones
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
    padded: for the plain twin, in place of all that.
    """

    blocks: torch.Tensor
    pieces: torch.Tensor
    folds: torch.Tensor
    lines: int
    padded: Padded | None = None

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

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.int32).to(device, non_blocking=True)

        return cls(
            blocks=tensor(blocks),
            pieces=tensor(pieces),
            folds=tensor(folds),
            lines=lines,
            padded=Padded.of(pack, device) if plain else None,
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


@dataclass(frozen=True)
class Side:
    """Segments of about one length, side by side. shape: (segments, queries of each, keys of each); keys are those of
    the preamble, then the segment's own. seen: bool, (segments, 1, queries, keys), which keys a query sees; None where
    no segment has a preamble: then those up to its own place, whatever is there."""

    shape: tuple[int, int, int]
    seen: torch.Tensor | None


@dataclass(frozen=True)
class Padded:
    """The segments of a pack for `attend_plain`, sorted by length: what is padded takes time and memory, and one long
    row beside many short ones would make every one of them as long.

    queries, keys: int64, tokens of all sides one behind the other, as their shapes say, with token 0 where one ends
    before the others of its side. back: int64, (tokens,), where each token is in `queries`.
    """

    sides: tuple[Side, ...]
    queries: torch.Tensor
    keys: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(cls, pack: Pack, device: torch.device) -> Padded:
        sizes, group = np.diff(pack.starts), _groups(pack)
        kinds = np.ceil(np.log2(np.maximum(sizes, SHORT))).astype(np.int64)  # a side's rows differ by less than twice
        sides, queries, keys = [], [], []
        for kind in np.unique(kinds):
            mine = np.flatnonzero(kinds == kind)
            own = _side_by_side(pack.starts[mine], sizes[mine])
            before = np.where(group[mine] >= 0, sizes[group[mine]], 0)
            both = np.concatenate([_side_by_side(pack.starts[group[mine]], before), own], axis=1)
            width, shared = own.shape[1], both.shape[1] - own.shape[1]
            seen = None
            if shared:
                seen = np.repeat((both >= 0)[:, None], width, axis=1)
                seen[:, :, shared:] &= np.tri(width, dtype=np.bool_)
            sides.append((own.shape[0], width, both.shape[1], seen))
            queries.append(own.ravel())
            keys.append(both.ravel())
        places = np.concatenate(queries)
        back = np.empty(len(pack.ids), np.int64)
        back[places[places >= 0]] = np.flatnonzero(places >= 0)

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(device, non_blocking=True)

        return cls(
            tuple(Side(tuple(shape), None if seen is None else tensor(seen)[:, None]) for *shape, seen in sides),
            tensor(places.clip(min=0)),
            tensor(np.concatenate(keys).clip(min=0)),
            tensor(back),
        )


def _side_by_side(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Tokens from each start on, (segments, longest); -1 behind the end of the shorter ones."""
    at = np.arange(sizes.max())
    return np.where(at < sizes[:, None], starts[:, None] + at, -1)


def attend_plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, padded: Padded, scale: float) -> torch.Tensor:
    """The plain twin. q (tokens, heads, size), k and v (tokens, key heads, size) -> (tokens, heads, size)."""
    shapes = [side.shape for side in padded.sides]
    ends = [n * width for n, width, _ in shapes], [n * keys for n, _, keys in shapes]
    queries, ks, vs = q[padded.queries].split(ends[0]), k[padded.keys].split(ends[1]), v[padded.keys].split(ends[1])
    groups, found = q.shape[1] // k.shape[1], []
    for side, *parts in zip(padded.sides, queries, ks, vs, strict=True):
        a, b, c = (t.unflatten(0, (side.shape[0], -1)).transpose(1, 2) for t in parts)
        if groups > 1:
            b, c = b.repeat_interleave(groups, 1), c.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(a, b, c, side.seen, is_causal=side.seen is None, scale=scale)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(found)[padded.back]


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
    """Differentiable. q (tokens, heads, size), k and v (tokens, key heads, size).

    Raises:
        ValueError: heads of another size in v, as latent attention has them, where the kernels take q's for all three.
    """
    if layout.padded is None:
        if v.shape[2] != q.shape[2]:
            raise ValueError(f"heads have {q.shape[2]} numbers in queries and {v.shape[2]} in values")
        found: torch.Tensor = Attention.apply(q.contiguous(), k.contiguous(), v.contiguous(), layout, scale)
        return found
    return attend_plain(q, k, v, layout.padded, scale)
