"""Near-duplicates: MinHash signatures of shingles, cut into bands (LSH), candidates checked by their true Jaccard.

Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3 (banding). A shingle is a run of
`data.duplicates.shingle` units (see shingle.py) of the whole row. Bands are chosen so that two rows exactly at the
threshold are found with a probability of at least 99.8 %; every candidate's Jaccard is then computed, so nothing below
it is called alike.

Where one block of the prompt makes up most of two rows, what stands beside it must share half of its words too: a
passage with ten questions is ten rows, and so are ten inputs under one long instruction or system message.

The first row of its kind is kept. A row is compared with kept rows alone, so what it is too close to is in the data.
That pass goes from first row to last on one process; signatures, the costly part, are made wherever rows are read.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.select.rouge_tokens import ranges
from pipeline.dataset.select.shingle import Hashes, mix, mostly_letters, runs

LETTERS = 3  # least letters in a shingle of scripts whose unit is one letter: sets of letters say nothing
HASHES = 128  # minima in a signature
FOUND = 0.998  # least probability that a pair at the threshold becomes a candidate
OWN = 0.5  # least Jaccard of the words beside the longest block
SURE = 4.0  # standard deviations by which the estimate from 128 minima may fall short of the threshold

_random = np.random.Generator(np.random.PCG64(20230313))
_TIMES = _random.integers(0, 2**64, HASHES, dtype=np.uint64) | np.uint64(1)
_PLUS = _random.integers(0, 2**64, HASHES, dtype=np.uint64)


@dataclass(frozen=True)
class Sets:
    """Sets of 32-bit hashes, each sorted, one after the other. ends: where each stops, shape (rows,)."""

    flat: NDArray[np.uint32]
    ends: NDArray[np.int64]

    def __getitem__(self, i: int) -> NDArray[np.uint32]:
        return self.flat[self.ends[i - 1] if i else 0 : self.ends[i]]

    @classmethod
    def of(cls, values: Sequence[Hashes]) -> Sets:
        """The upper halves of 64-bit hashes, each once."""
        sets = [np.unique((v >> np.uint64(32)).astype(np.uint32)) for v in values]
        ends = np.cumsum([len(s) for s in sets], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.uint32), *sets]), ends)

    @classmethod
    def joined(cls, parts: Sequence[Sets]) -> Sets:
        shift = np.cumsum([0, *(len(p.flat) for p in parts)])
        ends = [p.ends + shift[i] for i, p in enumerate(parts)]
        return cls(np.concatenate([p.flat for p in parts]), np.concatenate(ends))


@dataclass(frozen=True)
class Signatures:
    """What is compared of some rows.

    shingles: of the whole row. own: units beside the block that makes up most of the row, empty where none does.
    minima: the low byte of each minimum, shape (rows, HASHES). bands: shape (rows, bands); rows with an equal number in
    one column are candidates.
    """

    shingles: Sets
    own: Sets
    minima: NDArray[np.uint8]
    bands: Hashes

    @classmethod
    def joined(cls, parts: Sequence[Signatures]) -> Signatures:
        """Several in a row as one."""
        return cls(
            Sets.joined([p.shingles for p in parts]),
            Sets.joined([p.own for p in parts]),
            np.concatenate([p.minima for p in parts]),
            np.concatenate([p.bands for p in parts]),
        )


def rows_per_band(threshold: float) -> int:
    """The longest band with which a pair at the threshold is still found: 1 - (1 - t^r)^(128/r) >= FOUND."""
    found = [r for r in range(1, HASHES + 1) if 1 - (1 - threshold**r) ** (HASHES // r) >= FOUND]
    return max(found, default=1)


def shingles(found: Sequence[str], hashed: Hashes, length: int) -> Hashes:
    """Shingles of a text, given as units and their hashes."""
    if length < LETTERS and mostly_letters(found):
        length = LETTERS
    return runs(hashed, length)


def signatures(texts: Sequence[Hashes], own: Sequence[Hashes], threshold: float) -> Signatures:
    """Of rows given as shingles of the whole row, and as hashes of the units in `Signatures.own`."""
    # A row without any unit gets one shingle of its own kind, so that every row has a minimum.
    shingles = Sets.of([t if len(t) else np.zeros(1, np.uint64) for t in texts])
    starts = np.concatenate([[0], shingles.ends[:-1]]).astype(np.int64)
    spread = mix(shingles.flat.astype(np.uint64) + np.uint64(1))
    minima = np.empty((len(texts), HASHES), np.uint32)
    for i in range(HASHES if texts else 0):  # one by one: the products of all would be 128 times the shingles
        hashed = ((spread * _TIMES[i] + _PLUS[i]) >> np.uint64(32)).astype(np.uint32)
        minima[:, i] = np.minimum.reduceat(hashed, starts)
    bands = _bands(minima, rows_per_band(threshold))
    return Signatures(shingles, Sets.of(own), minima.astype(np.uint8), bands)


def _bands(minima: NDArray[np.uint32], length: int) -> Hashes:
    """One number for each run of `length` minima, with the band's number mixed in."""
    count = HASHES // length
    keys = np.tile(np.arange(1, count + 1, dtype=np.uint64), (len(minima), 1))
    for i in range(length):
        keys = mix(keys) + minima[:, i : count * length : length]
    return mix(keys)


def near(
    rows: Signatures, threshold: float, consider: NDArray[np.bool_], threads: NDArray[np.uint64]
) -> Iterator[tuple[int, int, float]]:
    """(row, kept row, Jaccard) for every row that is at least `threshold` alike to an earlier row that is kept.

    Args:
        consider: which rows take part, shape (rows,); the others are gone already.
        threads: conversation of each row, 0 = none; turns of one conversation repeat it and are not compared.
    """
    shared = _shared(rows.bands, consider)
    table: defaultdict[int, array[int]] = defaultdict(lambda: array("i"))
    slack = SURE * (threshold * (1 - threshold) / HASHES) ** 0.5
    met = np.zeros(len(consider), np.bool_)  # marks are a third of the time of sorting where a band holds thousands
    for i in np.flatnonzero(shared.any(axis=1)).tolist():
        keys = rows.bands[i][shared[i]].tolist()
        seen = [table[key] for key in keys if key in table]
        if seen:
            for s in seen:
                met[np.frombuffer(s, np.int32)] = True
            others = np.flatnonzero(met)
            met[others] = False
            if threads[i]:
                others = others[threads[others] != threads[i]]
            found = _most_alike(rows, i, others, threshold, slack)
            if found:
                yield i, *found
                continue
        for key in keys:
            table[key].append(i)


def _shared(bands: Hashes, consider: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which band numbers stand in more than one row: only those can make a candidate. Shape of `bands`."""
    shared = np.zeros(bands.shape, np.bool_)
    where = np.flatnonzero(consider)
    for column in range(bands.shape[1]):
        keys = bands[where, column]
        order = np.argsort(keys, kind="stable")
        equal = keys[order][1:] == keys[order][:-1]
        twice = np.zeros(len(keys), np.bool_)
        twice[1:] |= equal
        twice[:-1] |= equal
        shared[where[order], column] = twice
    return shared


def _most_alike(
    rows: Signatures, i: int, others: NDArray[np.int64], threshold: float, slack: float
) -> tuple[int, float] | None:
    """The row among `others` with the greatest Jaccard of at least `threshold`; the first of equals."""
    estimate = np.count_nonzero(rows.minima[others] == rows.minima[i], axis=1) / HASHES
    others = others[estimate >= threshold - slack]
    if not len(others):
        return None
    if len(rows.own[i]):
        own, sizes = _jaccard(rows.own, i, others)
        others = others[(sizes == 0) | (own >= OWN)]
        if not len(others):
            return None
    alike, _ = _jaccard(rows.shingles, i, others)
    best = int(np.argmax(alike))
    return (int(others[best]), float(alike[best])) if alike[best] >= threshold else None


def _jaccard(sets: Sets, i: int, others: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of set i, which is not empty, with each of the others, and their sizes. Both of the shape of `others`."""
    mine = sets[i]
    starts = np.where(others > 0, sets.ends[others - 1], 0)
    sizes = sets.ends[others] - starts
    flat = sets.flat[ranges(starts, sizes)]
    at = np.minimum(np.searchsorted(mine, flat), len(mine) - 1)
    sums = np.concatenate([[0], np.cumsum(mine[at] == flat)])
    ends = np.cumsum(sizes)
    common = sums[ends] - sums[ends - sizes]
    return common / (len(mine) + sizes - common), sizes


def repeated(keys: Hashes) -> NDArray[np.int64]:
    """For each row the first row with the same key, itself where it is the first. Shape (rows,)."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)
