"""Packs: rows one behind the other without padding, with the ids that many rows begin with only once.

    rows        a = P P P x y       b = P P P z       c = u v w        P: a preamble

    tokens      P P P | x y | z | u v w            starts     0 3 5 6 9
    positions   0 1 2 | 3 4 | 3 | 0 1 2            preambles  1
                preamble|rows that share| others   groups     3 6        (x y z go with preamble 0)

    entries     (where, target, weight)            of a and b: (2, x, 1) (3, y, 1) (2, z, 1)
                                                   and with loss on the prompt (0, P, 2) (1, P, 2)

An own token sees the preamble of its row and the row's own tokens up to itself: the same as in its row alone. An entry
says that the position `where` predicts `target` in `weight` rows. The last position of a preamble predicts the first
own token of each row, so it may have many entries. The loss of a pack is the sum over its entries, as over its rows.
`pipeline/kernels/layout.py` draws how attention goes through a pack.

A row shares a preamble only if its ids begin with it, so sharing is exact for any data. Similar ideas: prefix sharing
for preference pairs (arXiv 2410.20305), tree training (arXiv 2511.00413).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pack:
    """A micro-batch of rows without padding.

    Attributes:
        ids, positions: shape (tokens,).
        starts: start of each segment (a preamble, or the own tokens of a row), and the end; shape (segments + 1,).
        preambles: how many segments, at the front, are preambles.
        groups: bounds of the own tokens that go with each preamble, shape (preambles + 1,); later rows have none.
        where, targets, weights: the entries, shape (entries,).
        rows, original: number of rows, and of their tokens if nothing were shared.
    """

    ids: Ints
    positions: Ints
    starts: Ints
    preambles: int
    groups: Ints
    where: Ints
    targets: Ints
    weights: NDArray[np.float32]
    rows: int
    original: int

    @property
    def labelled(self) -> int:
        """Labelled tokens of the rows."""
        return int(self.weights.sum())

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return int(np.diff(self.starts).max())


class Packer:
    """Splits the rows of an optimiser step into packs; a pure function of the rows.

    Args:
        preambles: ids that rows may begin with (`Encoder.preambles`); empty: nothing is shared.
        capacity: most tokens in a pack; a longer row gets a pack of its own.

    Attributes:
        preamble_of_row: index into `preambles` of each row of the data, -1 for none; shape (rows,).
        shared: tokens of each row that are in its preamble, shape (rows,).
    """

    def __init__(self, tokens: Tokens, preambles: Sequence[Sequence[int]], capacity: int) -> None:
        self.tokens, self.capacity = tokens, capacity
        self.preambles = [np.asarray(ids, np.int64) for ids in sorted(preambles, key=len)]
        self.preamble_of_row = _match_preambles(tokens, self.preambles)
        lengths = np.array([0, *map(len, self.preambles)], np.int64)
        self.shared: Ints = lengths[self.preamble_of_row + 1]

    def packs(self, rows: Sequence[int]) -> Iterator[Pack]:
        """The given rows as packs, largest first, so that memory runs out at the start or never."""
        for members in self.bins(rows):
            yield self.pack(members)

    def bins(self, rows: Sequence[int]) -> list[list[int]]:
        """Best fit, longest row first: each row goes where the least room is left after it, ties to the older bin."""
        own = self.tokens.lengths - self.shared
        order = sorted(rows, key=lambda i: (-int(own[i]), i))
        bins: list[list[int]] = []
        in_bin: list[set[int]] = []  # preambles of each bin: further rows with them add only their own tokens
        room: list[int] = []
        for row in order:
            preamble, size, shared = int(self.preamble_of_row[row]), int(own[row]), int(self.shared[row])
            cost = [size + (0 if preamble in seen else shared) for seen in in_bin]
            fits = [(room[b] - cost[b], b) for b in range(len(bins)) if cost[b] <= room[b]]
            if fits:
                left, b = min(fits)
            else:
                b, left = len(bins), self.capacity - size - shared
                bins.append([])
                in_bin.append(set())
                room.append(0)
            room[b] = left
            bins[b].append(row)
            in_bin[b].add(preamble)
        return sorted(bins, key=lambda b: -sum(int(own[i]) for i in b))

    def pack(self, rows: Sequence[int]) -> Pack:
        """The given rows as one pack."""
        chosen = np.asarray(rows, np.int64)
        preamble = self.preamble_of_row[chosen]
        # A preamble of only one row of this pack needs no segment of its own: the row keeps it.
        is_shared = np.bincount(preamble + 1, minlength=len(self.preambles) + 1) > 1
        preamble = np.where(is_shared[preamble + 1], preamble, -1)
        order = np.argsort(np.where(preamble < 0, len(self.preambles), preamble), kind="stable")
        return self._lay_out(chosen[order], preamble[order])

    def _lay_out(self, rows: Ints, preamble: Ints) -> Pack:
        """rows: in the order of the pack. preamble: of each, -1 for none; shape (rows,)."""
        used = np.unique(preamble[preamble >= 0]).tolist()
        fronts = [self.preambles[p] for p in used]
        front = sum(map(len, fronts))
        shared = np.where(preamble < 0, 0, self.shared[rows])
        lengths, offsets = self.tokens.lengths[rows], self.tokens.offsets[rows]
        own_lengths = lengths - shared
        own = _ranges(offsets + shared, own_lengths)
        starts = np.cumsum([0, *map(len, fronts), *own_lengths])
        entries = [self._own_entries(own, front, starts[len(used) :]), *self._preamble_entries(rows, preamble, used)]
        where, targets, weights = (np.concatenate(arrays) for arrays in zip(*entries, strict=True))
        return Pack(
            ids=np.concatenate([*fronts, self.tokens.ids[own]]).astype(np.int64),
            positions=np.concatenate([*(np.arange(len(ids)) for ids in fronts), _ranges(shared, own_lengths)]),
            starts=starts,
            preambles=len(used),
            groups=front + np.cumsum([0, *(own_lengths[preamble == p].sum() for p in used)]),
            where=where,
            targets=targets.astype(np.int64),
            weights=weights.astype(np.float32),
            rows=len(rows),
            original=int(lengths.sum()),
        )

    def _own_entries(self, own: Ints, front: int, starts: Ints) -> tuple[Ints, Ints, Ints]:
        """Entries of own tokens that predict own tokens: all but the first one of each row.

        Args:
            own: indices of the own tokens into the data. front: tokens of all preambles. starts: of the rows.
        """
        labels = self.tokens.labels[own]
        is_labelled = labels != IGNORE
        is_labelled[starts[:-1] - front] = False
        at = np.flatnonzero(is_labelled)
        return at + front - 1, labels[at], np.ones(len(at), np.int64)

    def _preamble_entries(self, rows: Ints, preamble: Ints, used: list[int]) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Entries of preambles: they predict themselves, and the first own token of each row."""
        start = 0
        for number in used:
            ids = self.preambles[number]
            offsets = self.tokens.offsets[rows[preamble == number]]
            is_labelled = self.tokens.labels[offsets[:, None] + np.arange(1, len(ids))] != IGNORE
            counts = is_labelled.sum(axis=0)
            at = np.flatnonzero(counts)
            yield start + at, ids[at + 1], counts[at]
            first = self.tokens.labels[offsets + len(ids)]
            targets, counts = np.unique(first[first != IGNORE], return_counts=True)
            yield np.full(len(targets), start + len(ids) - 1), targets, counts
            start += len(ids)


def _match_preambles(tokens: Tokens, preambles: Sequence[Ints]) -> Ints:
    """Index of the longest preamble that each row begins with and is longer than; -1 for none. Shape (rows,)."""
    matched = np.full(len(tokens), -1, np.int64)
    for number, ids in enumerate(preambles):
        rows = np.flatnonzero(tokens.lengths > len(ids))
        same = np.ones(len(rows), np.bool_)
        for at, id in enumerate(ids):  # token by token: all at once would be rows times tokens in memory
            same &= tokens.ids[tokens.offsets[rows] + at] == id
        matched[rows[same]] = number
    return matched


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, ..., start + length - 1 of each, concatenated."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
