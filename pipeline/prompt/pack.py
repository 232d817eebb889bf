"""Packs: rows one behind the other without padding, and what many rows begin with only once.

    tokens     [preamble 1][preamble 2][own tokens of rows of 1 ...][... of 2 ...][rows that share nothing ...]
    positions   0 1 2 ...   0 1 ...     n1 n1+1 ... | n1 n1+1 ...    n2 ...        0 1 ... | 0 1 ...

A row's own tokens see each other (causally) and their preamble, so every token sees what it sees in its row alone.
What a shared token learns stands once for all rows: each position that predicts something is an entry (position,
target, weight), the weight being the number of rows in which that position predicts that target. The preamble's last
position predicts another token in each row, so it may have many entries. Sums over entries are sums over rows.

A row shares a preamble only when its tokens really begin with it, so sharing cannot be wrong, only of no use.
Relatives of the idea: prefix sharing for preference pairs (arXiv 2410.20305), tree training (arXiv 2511.00413).
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
    """Some rows, ready to go through the model at once.

    Attributes:
        ids, positions: shape (tokens,).
        starts: where each segment (a preamble, or the own tokens of a row) begins, and the end; shape (segments + 1,).
        preambles: how many of the segments, at the front, are preambles.
        groups: bounds of the own tokens that go with each preamble, shape (preambles + 1,); the rest shares nothing.
        where, targets, weights: the entries; position that predicts, what, for how many rows; shape (entries,).
        rows, original: rows, and their tokens had each been computed by itself.
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
    def learnt(self) -> int:
        """Labelled tokens of the rows."""
        return int(self.weights.sum())

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return int(np.diff(self.starts).max())


class Packer:
    """Cuts the rows of an optimiser step into packs; a pure function of the rows.

    Args:
        leading: runs of ids that rows may begin with (`Encoder.leading`); none = nothing is shared.
        capacity: most tokens in a pack; a row that is longer gets a pack of its own.
    """

    def __init__(self, tokens: Tokens, leading: Sequence[Sequence[int]], capacity: int) -> None:
        self.tokens, self.capacity = tokens, capacity
        self.leading = [np.asarray(run, np.int64) for run in sorted(leading, key=len)]
        self.preamble = _matched(tokens, self.leading)
        sizes = np.array([0, *map(len, self.leading)], np.int64)
        self.shared: Ints = sizes[self.preamble + 1]
        """Tokens of each row that stand in its preamble, shape (rows of the data,)."""

    def packs(self, rows: Sequence[int]) -> Iterator[Pack]:
        """The given rows as packs, the largest first, so that memory runs out at the start or never."""
        for members in self.bins(rows):
            yield self.pack(members)

    def bins(self, rows: Sequence[int]) -> list[list[int]]:
        """Best fit, longest row first: each row goes where the least room is left after it, ties to the older bin."""
        own = self.tokens.lengths - self.shared
        order = sorted(rows, key=lambda i: (-int(own[i]), i))
        bins: list[list[int]] = []
        there: list[set[int]] = []
        room: list[int] = []
        for row in order:
            kind = int(self.preamble[row])
            size = int(own[row])
            cost = [size + (0 if kind < 0 or kind in seen else int(self.shared[row])) for seen in there]
            fits = [(room[b] - cost[b], b) for b in range(len(bins)) if cost[b] <= room[b]]
            if fits:
                left, b = min(fits)
            else:
                b, left = len(bins), self.capacity - size - int(self.shared[row])
                bins.append([])
                there.append(set())
                room.append(0)
            room[b] = left
            bins[b].append(row)
            there[b].add(kind)
        return sorted(bins, key=lambda b: -sum(int(own[i]) for i in b))

    def pack(self, rows: Sequence[int]) -> Pack:
        """The given rows as one pack."""
        chosen = np.asarray(rows, np.int64)
        kinds = self.preamble[chosen]
        # A preamble that only one row of this pack has is not worth a segment of its own: the row keeps it.
        often = np.bincount(kinds + 1, minlength=len(self.leading) + 1) > 1
        kinds = np.where(often[kinds + 1], kinds, -1)
        order = np.argsort(np.where(kinds < 0, len(self.leading), kinds), kind="stable")
        kinds = kinds[order]
        return self._laid_out(chosen[order], kinds, sorted(set(kinds[kinds >= 0].tolist())))

    def _laid_out(self, rows: Ints, kinds: Ints, used: list[int]) -> Pack:
        shared = np.where(kinds < 0, 0, self.shared[rows])
        lengths = self.tokens.lengths[rows]
        begins = self.tokens.offsets[rows]
        heads = [self.leading[k] for k in used]
        front = sum(map(len, heads))
        sizes = np.array([*map(len, heads), *(lengths - shared)], np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        own = _ranges(begins + shared, lengths - shared)
        ids = np.concatenate([*heads, self.tokens.ids[own]]).astype(np.int64)
        positions = np.concatenate(
            [*(np.arange(len(h)) for h in heads), _ranges(shared, lengths - shared)],
        ).astype(np.int64)
        groups = np.concatenate([[front], front + np.cumsum([int((lengths - shared)[kinds == k].sum()) for k in used])])
        entries = [self._own_entries(own, front, rows, starts[len(used) :]), *self._shared_entries(rows, kinds, used)]
        where, targets, weights = (np.concatenate(part) for part in zip(*entries, strict=True))
        return Pack(
            ids,
            positions,
            starts.astype(np.int64),
            len(used),
            groups.astype(np.int64),
            where.astype(np.int64),
            targets.astype(np.int64),
            weights.astype(np.float32),
            len(rows),
            int(lengths.sum()),
        )

    def _own_entries(self, own: Ints, front: int, rows: Ints, starts: Ints) -> tuple[Ints, Ints, Ints]:
        """What own tokens predict of own tokens: all but the first of each row."""
        labels = self.tokens.labels[own]
        learns = labels != IGNORE
        learns[starts[:-1] - front] = False
        at = np.flatnonzero(learns)
        return at + front - 1, labels[at], np.ones(len(at), np.int64)

    def _shared_entries(self, rows: Ints, kinds: Ints, used: list[int]) -> Iterator[tuple[Ints, Ints, Ints]]:
        """What preambles predict: of themselves, and each row's first own token."""
        start = 0
        for kind in used:
            run = self.leading[kind]
            begins = self.tokens.offsets[rows[kinds == kind]]
            learns = self.tokens.labels[begins[:, None] + np.arange(1, len(run))] != IGNORE
            counts = learns.sum(axis=0)
            at = np.flatnonzero(counts)
            yield start + at, run[at + 1], counts[at]
            first = self.tokens.labels[begins + len(run)]
            targets, counts = np.unique(first[first != IGNORE], return_counts=True)
            yield np.full(len(targets), start + len(run) - 1), targets, counts
            start += len(run)


def _matched(tokens: Tokens, leading: Sequence[Ints]) -> Ints:
    """Number of the longest run that each row begins with and goes on after; -1 for none. Shape (rows,)."""
    found = np.full(len(tokens), -1, np.int64)
    for number, run in enumerate(leading):
        rows = np.flatnonzero(tokens.lengths > len(run))
        same = np.ones(len(rows), np.bool_)
        for at, id in enumerate(run):  # token by token: all at once would be rows times tokens in memory
            same &= tokens.ids[tokens.offsets[rows] + at] == id
        found[rows[same]] = number
    return found


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, ... of each, one behind the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
