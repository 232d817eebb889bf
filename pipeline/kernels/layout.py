"""Where the segments of a pack lie, as attention needs it.

    tokens    | preamble 0 | preamble 1 | row a  | row b  | row c  | row d  |
    sees                                  0 and a  0 and b  1 and c  d alone      (within a row: itself and earlier)

    `query_tiles`: forward, dq, and dk and         `preamble_tiles`: dk and dv of a preamble's tokens
    dv of a row's own tokens

              preamble 0    row a                               preamble 0
             +------------+--------+                      +-----------+-----------+
        TILE |  all keys  | causal |          QUERY_CHUNK |  partial  |  partial  |
     queries |            |        |          queries     |  sum      |  sum      |
             +------------+--------+          of a and b  +-----------+-----------+
        TILE |  all keys  | causal |          next chunk  |  partial  |  partial  |
     queries |            |        |                      |  sum      |  sum      |
             +------------+--------+                      +-----------+-----------+
        one program a tile and head                         TILE keys   TILE keys
                                              one program a tile and head; `reductions` then says which partial sums
                                              are added for each key, in a fixed order

Rows of instruction data are about a hundred tokens long, so a program handles `TILE` queries of one row and one head
and loops over all their keys. The keys of a preamble are seen by thousands of queries, hence the partial sums.
`long_tiles`, where rows are long, has `LONG_TILE` queries a program, for the forward pass and dq.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pipeline.prompt.pack import Pack

TILE = 64  # queries, or keys, of a program
LONG_TILE = 128  # the same where rows are long, if the card has room (`card.has_room`)
LONG_SEGMENT = 512  # tokens of the mean segment from which rows count as long
QUERY_CHUNK = 512  # queries in one partial sum of a preamble's gradients
MIN_BUCKET = 16  # tokens; shorter segments share one bucket of `PaddedSegments`
LONG = 1024  # own tokens of a bucket from which its rows are computed whole, so that no mask is needed


class LayoutSize(NamedTuple):
    """Rows of `query_tiles` and `preamble_tiles`, and the number of partial sums."""

    query_tiles: int
    preamble_tiles: int
    partial_sums: int


@dataclass(frozen=True)
class Layout:
    """The segments of a pack, on the device.

    query_tiles: int32, (tiles, 5): first query, start and end of its segment, start and end of its preamble (0, 0 if
        it has none).
    preamble_tiles: int32, (tiles, 5): start and end of a chunk of queries, first key of the tile, end of the preamble,
        index of the first key's partial sum.
    reductions: int32, (preamble tokens, 3): index of the token's first partial sum, distance to the next, how many.
    partial_sums: how many there are, each (key heads * size).
    long_tiles: as query_tiles, of `LONG_TILE` queries; None where rows are short, or shapes must stay the same.
    padded: for `attention.attend_plain`; None if the kernels are used.
    """

    query_tiles: torch.Tensor
    preamble_tiles: torch.Tensor
    reductions: torch.Tensor
    partial_sums: int
    padded: PaddedSegments | None = None
    long_tiles: torch.Tensor | None = None

    @classmethod
    def of(cls, pack: Pack, device: torch.device, plain: bool, size: LayoutSize | None = None) -> Layout:
        """plain: for `attend_plain` instead of the kernels. size: pad to it, so that packs of a CUDA graph have equal
        shapes; programs with an empty tile do nothing."""
        (preamble_tiles, reductions, partial_sums), query_tiles = preamble_tiles_of(pack), query_tiles_of(pack)
        if size is not None:
            query_tiles = _zero_padded(query_tiles, size.query_tiles)
            preamble_tiles = _zero_padded(preamble_tiles, size.preamble_tiles)
            assert partial_sums <= size.partial_sums
            partial_sums = size.partial_sums

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.int32).to(device, non_blocking=True)

        is_long = size is None and not plain and len(pack.ids) >= LONG_SEGMENT * (len(pack.starts) - 1)
        return cls(
            query_tiles=tensor(query_tiles),
            preamble_tiles=tensor(preamble_tiles),
            reductions=tensor(reductions),
            partial_sums=partial_sums,
            padded=PaddedSegments.of(pack, device) if plain else None,
            long_tiles=tensor(query_tiles_of(pack, LONG_TILE)) if is_long else None,
        )


def _zero_padded(tiles: np.ndarray, count: int) -> np.ndarray:
    assert len(tiles) <= count
    return np.concatenate([tiles, np.zeros((count - len(tiles), 5), np.int64)])


def _preamble_of(pack: Pack) -> np.ndarray:
    """Index of each segment's preamble, -1 for none; (segments,)."""
    preamble = np.searchsorted(pack.groups, pack.starts[:-1], side="right") - 1
    own = np.arange(len(preamble)) >= pack.preambles
    return np.where(own & (preamble >= 0) & (preamble < pack.preambles), preamble, -1)


def query_tiles_of(pack: Pack, tile: int = 0) -> np.ndarray:
    """`Layout.query_tiles`. tile: queries of a program, 0 = `TILE`."""
    tile = tile or TILE
    starts, preamble = pack.starts, _preamble_of(pack)
    tiles = -(-np.diff(starts) // tile)  # of each segment
    segment = np.repeat(np.arange(len(tiles)), tiles)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    shared = np.stack([starts[preamble], starts[preamble + 1]]) * (preamble >= 0)
    first = starts[segment] + tile * within
    return np.stack([first, starts[segment], starts[segment + 1], *shared[:, segment]], axis=1)


def preamble_tiles_of(pack: Pack) -> tuple[np.ndarray, np.ndarray, int]:
    """`Layout.preamble_tiles`, `reductions` and `partial_sums`."""
    tiles, reductions, sums = [], [], 0
    for n in range(pack.preambles):
        query_start, query_end = (int(b) for b in pack.groups[n : n + 2])
        start, end = (int(b) for b in pack.starts[n : n + 2])
        chunks = range(query_start, query_end, QUERY_CHUNK)
        for c, chunk in enumerate(chunks):
            for key in range(start, end, TILE):
                tiles.append(
                    (chunk, min(chunk + QUERY_CHUNK, query_end), key, end, sums + c * (end - start) + key - start)
                )
        reductions += [(sums + key, end - start, len(chunks)) for key in range(end - start)]
        sums += (end - start) * len(chunks)
    return np.array(tiles, np.int64).reshape(-1, 5), np.array(reductions, np.int64).reshape(-1, 3), sums


def max_preamble_tiles(pack: Pack, tokens: int) -> tuple[int, int]:
    """Upper bounds of the preamble tiles and partial sums of any pack with these preambles and at most so many tokens;
    (0, 0) without preambles."""
    if not pack.preambles:
        return 0, 0
    longest = int(np.diff(pack.starts[: pack.preambles + 1]).max())
    chunks = tokens // QUERY_CHUNK + pack.preambles
    return chunks * -(-longest // TILE), chunks * longest


@dataclass(frozen=True)
class Bucket:
    """Segments of similar length, padded to the longest. shape: (segments, queries, keys); the keys are those of the
    preamble followed by the segment's own. mask: bool, (segments, 1, queries, keys), True where a query sees a key;
    None (causal) if no segment of the bucket has a preamble, or queries are those of the preamble and the segment.

    A mask grows with the square of the row, and torch computes what it hides: on a CPU two rows of 16,000 tokens took
    2.6 times as long and 2.9 GiB with one, instead of 0.6 GiB with the preamble's 35 queries computed again for each.
    """

    shape: tuple[int, int, int]
    mask: torch.Tensor | None


@dataclass(frozen=True)
class PaddedSegments:
    """The segments of a pack in buckets by length: padding costs time and memory, and with a single bucket one long row
    would make every short one as long.

    queries, keys: int64, indices of the tokens of all buckets, flattened in order of the buckets; padding is token 0.
    positions: int64, (tokens,), index of each token in `queries`.
    """

    buckets: tuple[Bucket, ...]
    queries: torch.Tensor
    keys: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, pack: Pack, device: torch.device) -> PaddedSegments:
        lengths, preamble = np.diff(pack.starts), _preamble_of(pack)
        powers = np.ceil(np.log2(np.maximum(lengths, MIN_BUCKET))).astype(np.int64)  # so padding at most doubles
        buckets, queries, keys, outputs = [], [], [], []
        for power in np.unique(powers):
            members = np.flatnonzero(powers == power)
            own = _index_matrix(pack.starts[members], lengths[members])
            preamble_lengths = np.where(preamble[members] >= 0, lengths[preamble[members]], 0)
            front = _index_matrix(pack.starts[preamble[members]], preamble_lengths)
            width, shared, mask = own.shape[1], front.shape[1], None
            if shared and width >= LONG:  # each row whole, its padding at the end
                both = np.concatenate([front, own], axis=1)
                both = np.take_along_axis(both, np.argsort(both < 0, axis=1, kind="stable"), axis=1)
                is_own = np.arange(both.shape[1]) >= preamble_lengths[:, None]
                asked, output = both, np.where(is_own, both, -1)
            else:
                both, asked, output = np.concatenate([front, own], axis=1), own, own
                if shared:
                    mask = np.repeat((both >= 0)[:, None], width, axis=1)
                    mask[:, :, shared:] &= np.tri(width, dtype=np.bool_)
            buckets.append((len(members), asked.shape[1], both.shape[1], mask))
            queries.append(asked.ravel())
            keys.append(both.ravel())
            outputs.append(output.ravel())
        tokens = np.concatenate(outputs)
        positions = np.empty(len(pack.ids), np.int64)
        positions[tokens[tokens >= 0]] = np.flatnonzero(tokens >= 0)

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(device, non_blocking=True)

        return cls(
            tuple(Bucket(tuple(shape), None if mask is None else tensor(mask)[:, None]) for *shape, mask in buckets),
            tensor(np.concatenate(queries).clip(min=0)),
            tensor(np.concatenate(keys).clip(min=0)),
            tensor(positions),
        )


def _index_matrix(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Token indices of each segment in a row, (segments, longest); -1 after the end of shorter ones."""
    offsets = np.arange(lengths.max())
    return np.where(offsets < lengths[:, None], starts[:, None] + offsets, -1)
