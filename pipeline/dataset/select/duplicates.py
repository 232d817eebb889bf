"""Near-duplicates: MinHash signatures of shingles, banding (LSH), candidates verified by exact Jaccard similarity.

    row -> units -> shingles (n-grams)    set of S uint32
        -> 128 minima of hashes           [128]   r of them form a band
        -> bands                          [128 / r] uint64; an equal number in one column makes two rows candidates
        -> estimate from the minima, then exact Jaccard of the shingles: at least the threshold -> dropped

Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3 (banding). A shingle is an n-gram
of `data.duplicates.shingle` units (text_units.py) of the whole row. r is chosen so that two rows exactly at the
threshold become candidates with a probability of at least 99.8 %; no row below the threshold is dropped.

If one block of the prompt makes up most of two rows, the rest must also share half of its words: a passage with ten
questions is ten rows, and so are ten inputs under one long instruction or system message.

The first of similar rows is kept, and rows are compared with kept rows only. This pass runs in the order of the rows in
one process; signatures, the expensive part, are computed by the processes that read.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.select.ragged import ranges
from pipeline.dataset.select.text_units import Hashes, mix, mostly_letters, ngrams

LETTERS = 3  # smallest shingle in scripts whose unit is one letter: sets of single letters are too similar
HASHES = 128  # minima in a signature
RECALL = 0.998  # least probability that a pair at the threshold becomes a candidate
OWN = 0.5  # least Jaccard of the words outside of the longest block
SLACK = 4.0  # standard deviations by which the estimate from 128 minima may be below the threshold

_random = np.random.Generator(np.random.PCG64(20230313))
_TIMES = _random.integers(0, 2**64, HASHES, dtype=np.uint64) | np.uint64(1)
_PLUS = _random.integers(0, 2**64, HASHES, dtype=np.uint64)


@dataclass(frozen=True)
class Sets:
    """Sorted sets of 32-bit hashes in one flat array. ends: of each set, shape (rows,)."""

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


@dataclass(frozen=True)
class Signatures:
    """What is compared of rows.

    shingles: of the whole row. own: units outside of the block that makes up most of the row, empty if no block does.
    minima: the low byte of each minimum, shape (rows, HASHES). bands: shape (rows, bands); rows with an equal number in
    one column are candidates.
    """

    shingles: Sets
    own: Sets
    minima: NDArray[np.uint8]
    bands: Hashes


def rows_per_band(threshold: float) -> int:
    """The longest band with enough recall at the threshold: 1 - (1 - t^r)^(128/r) >= RECALL."""
    lengths = [r for r in range(1, HASHES + 1) if 1 - (1 - threshold**r) ** (HASHES // r) >= RECALL]
    return max(lengths, default=1)


def shingles(units: Sequence[str], hashed: Hashes, length: int) -> Hashes:
    """Shingles of a text, given as units and their hashes."""
    if length < LETTERS and mostly_letters(units):
        length = LETTERS
    return ngrams(hashed, length)


def signatures(texts: Sequence[Hashes], own: Sequence[Hashes], threshold: float) -> Signatures:
    """Signatures of rows. texts: their shingles. own: hashes of the units in `Signatures.own`."""
    # A row without units gets one special shingle, so that every row has a minimum.
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
    """One number for each band of `length` minima, combined with the number of the band."""
    count = HASHES // length
    keys = np.tile(np.arange(1, count + 1, dtype=np.uint64), (len(minima), 1))
    for i in range(length):
        keys = mix(keys) + minima[:, i : count * length : length]
    return mix(keys)


def near(
    rows: Signatures, threshold: float, consider: NDArray[np.bool_], threads: NDArray[np.uint64]
) -> Iterator[tuple[int, int, float]]:
    """(row, kept row, Jaccard) for every row with a Jaccard of at least `threshold` to an earlier row that is kept.

    Args:
        consider: which rows are compared, shape (rows,); the others were dropped before.
        threads: conversation of each row, 0 = none; rows of one conversation repeat it and are not compared.
    """
    shared = _shared(rows.bands, consider)
    table: defaultdict[int, array[int]] = defaultdict(lambda: array("i"))
    slack = SLACK * (threshold * (1 - threshold) / HASHES) ** 0.5
    mask = np.zeros(len(consider), np.bool_)  # three times as fast as sorting if a band holds thousands of rows
    for i in np.flatnonzero(shared.any(axis=1)).tolist():
        keys = rows.bands[i][shared[i]].tolist()
        if matches := [table[key] for key in keys if key in table]:
            for match in matches:
                mask[np.frombuffer(match, np.int32)] = True
            others = np.flatnonzero(mask)
            mask[others] = False
            if threads[i]:
                others = others[threads[others] != threads[i]]
            if best := _most_similar(rows, i, others, threshold, slack):
                yield i, *best
                continue
        for key in keys:
            table[key].append(i)


def _shared(bands: Hashes, consider: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which band numbers occur in more than one row: only those can make candidates. Shape of `bands`."""
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


def _most_similar(
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
    jaccard, _ = _jaccard(rows.shingles, i, others)
    best = int(np.argmax(jaccard))
    return (int(others[best]), float(jaccard[best])) if jaccard[best] >= threshold else None


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
