"""The few shapes that packs are padded to, so that passes over them can be recorded as CUDA graphs.

Padding is a segment that no row attends to, and entries of weight zero in it: loss and gradients are those of the pack.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.kernels.layout import TILE, LayoutSize, max_preamble_tiles, query_tiles_of
from pipeline.prompt.pack import Pack

GROWTH = 1.08  # from one shape to the next larger one, but at least `TILE` tokens: small passes take equally long
SAMPLE_PACKS = 8  # from which `ShapeTable` learns what packs have per token


class GraphShape(NamedTuple):
    """The sizes that differ between packs."""

    tokens: int
    entries: int
    kept_positions: int
    query_tiles: int

    @classmethod
    def of(cls, pack: Pack) -> GraphShape:
        """Those of the pack and one token of padding."""
        tiles, kept = len(query_tiles_of(pack)) + 1, len(np.unique(pack.where)) + 1
        return cls(len(pack.ids) + 1, len(pack.where) + 1, kept, tiles)

    def layout_size(self, pack: Pack) -> LayoutSize:
        """The preambles' part follows from their lengths, which are not padded, and from `tokens`: packs with the same
        preambles share a shape, and no pack gets larger because others have more preambles."""
        return LayoutSize(self.query_tiles, *max_preamble_tiles(pack, self.tokens))


@dataclass(frozen=True)
class ShapeTable:
    """The shapes of a run. Tokens grow by `GROWTH`; the other sizes are these numbers per token.

    One number decides all four, or a run would meet too many shapes. The ratios are the largest of several packs: too
    many entries for the tokens of a pack cost less than tokens added to have enough entries.
    """

    entries: float
    kept_positions: float
    query_tiles: float

    @classmethod
    def of(cls, packs: Sequence[Pack]) -> ShapeTable:
        """packs: a sample of those of the run; only the first `SAMPLE_PACKS` are used."""
        shapes = np.array([GraphShape.of(pack) for pack in packs[:SAMPLE_PACKS]], np.float64)
        return cls(*(shapes[:, 1:] / shapes[:, :1]).max(axis=0).tolist())

    def shape_for(self, pack: Pack, least: int = 0) -> GraphShape:
        """The smallest shape of at least `least` tokens that the pack fits into, with the query tiles of the padding. A
        pack unlike the sample may not fit into the next three sizes; then the ratios are doubled until it does."""
        needed = GraphShape.of(pack)
        needed = needed._replace(tokens=max(needed.tokens, least))
        for doublings in itertools.count():
            for tokens in _token_sizes(needed.tokens):
                ratios = dataclasses.astuple(self)
                shape = GraphShape(tokens, *(math.ceil(tokens * ratio) << doublings for ratio in ratios))
                tiles = needed.query_tiles - 1 - (len(pack.ids) - tokens) // TILE
                if all(need <= size for need, size in zip(needed._replace(query_tiles=tiles), shape, strict=True)):
                    return shape
        raise AssertionError("unreachable")


def _token_sizes(tokens: int) -> list[int]:
    """The three smallest sizes that are at least `tokens`."""
    sizes = [TILE]
    while len(sizes) < 3 or sizes[-3] < tokens:
        sizes.append(max(sizes[-1] + TILE, math.ceil(sizes[-1] * GROWTH)))
    return sizes[-3:]


def pad(pack: Pack, shape: GraphShape) -> Pack:
    """The pack with one more segment, and entries of weight zero in it."""
    count, entries = len(pack.ids), shape.entries - len(pack.where)
    tokens = shape.tokens - count
    return dataclasses.replace(
        pack,
        ids=np.concatenate([pack.ids, np.zeros(tokens, np.int64)]),
        # Zeros, since some rotary positions depend on the largest position.
        positions=np.concatenate([pack.positions, np.zeros(tokens, np.int64)]),
        starts=np.concatenate([pack.starts, [shape.tokens]]),
        # All at one position of no row: they write the same zero gradient to it, so their order does not matter.
        where=np.concatenate([pack.where, np.full(entries, shape.tokens - 1)]),
        targets=np.concatenate([pack.targets, np.zeros(entries, np.int64)]),
        weights=np.concatenate([pack.weights, np.zeros(entries, np.float32)]),
    )
