"""N-grams of many texts, found in many rows at once.

texts (benchmark questions)    flat [U] uint64 hashes of units, starts [texts + 1]
  | n-grams that few texts have; of other texts only the rarest
  v
values [N] uint64, sorted      first [N + 1]: values[i] occurs in text[first[i]:first[i + 1]] at at[...]
  ^
  | find: sieve by leading bits, then binary search
rows                           flat [V] uint64, starts [rows + 1]
  -> (row, text, position in the row at which the text would begin), each of shape (matches,) int64
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.select.ragged import first_of_groups, ranges
from pipeline.dataset.select.text_units import Hashes, ngrams

Numbers = NDArray[np.int64]
Small = NDArray[np.int32]
Flags = NDArray[np.bool_]

FEW = 10
"""An n-gram in more texts than that is a common phrase ("which of the following") and identifies none of them."""
RAREST = 8
"""Number of the rarest n-grams of a text that are always indexed."""


class NgramIndex:
    """The n-grams of texts. Of a text in `long` those in at most `FEW` texts and the `RAREST`, otherwise the rarest.

    Attributes:
        text: text of each entry. informative: units inside of an n-gram in at most `FEW` texts, shape (units,).
    """

    def __init__(self, flat: Hashes, starts: Numbers, length: int, chosen: Flags, long: Flags) -> None:
        values, text, at = _ngrams(flat, starts, length, chosen)
        order = np.argsort(values, kind="stable")
        count = np.diff(np.append(first_of_groups(values[order]), len(values))).astype(np.int32)
        texts_with = np.empty(len(values), np.int32)  # number of texts with each n-gram
        texts_with[order] = np.repeat(count, count)
        self.informative = np.zeros(len(flat), np.bool_)
        few = (starts[text] + at)[texts_with <= FEW]
        for k in range(length):
            self.informative[few + k] = True
        rarest = np.lexsort((texts_with, text))  # texts stay in order
        first = first_of_groups(text)
        rank = np.empty(len(text), np.int32)
        rank[rarest] = np.arange(len(text)) - np.repeat(first, np.diff(np.append(first, len(text))))
        indexed = np.where(long[text], (texts_with <= FEW) | (rank < RAREST), rank == 0)
        order = order[indexed[order]]
        values, self.text, self.at = values[order], text[order], at[order]
        first = first_of_groups(values)
        self.length, self.values, self.first = length, values[first], np.append(first, len(values))
        self.shift = np.uint64(64 - min(max(16, len(first).bit_length() + 3), 26))
        self.sieve = np.zeros(1 << (64 - int(self.shift)), np.bool_)  # leading bits: excludes most n-grams of a row
        self.sieve[self.values >> self.shift] = True

    def find(self, flat: Hashes, starts: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """For each n-gram that a row shares with a text: row, text, and where the text would begin in the row."""
        if not len(self.values):
            return (np.zeros(0, np.int64),) * 3
        values, row, at = _ngrams(flat, starts, self.length)
        some = np.flatnonzero(self.sieve[values >> self.shift])
        place = np.minimum(np.searchsorted(self.values, values[some]), len(self.values) - 1)
        same = self.values[place] == values[some]
        some, place = some[same], place[same]
        count = self.first[place + 1] - self.first[place]
        entry = ranges(self.first[place], count)
        some = np.repeat(some, count)
        begin = at[some].astype(np.int64) - self.at[entry]
        return row[some].astype(np.int64), self.text[entry].astype(np.int64), begin


def _ngrams(flat: Hashes, starts: Numbers, length: int, chosen: Flags | None = None) -> tuple[Hashes, Small, Small]:
    """N-grams inside one text each, of all or the chosen texts: hashes, text, position in the text."""
    if len(flat) < length:
        return flat[:0], np.zeros(0, np.int32), np.zeros(0, np.int32)
    text = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    head, tail = text[: len(flat) - length + 1], text[length - 1 :]
    inside = np.flatnonzero(head == tail if chosen is None else (head == tail) & chosen[head])
    head = head[inside]
    return ngrams(flat, length)[inside], head, (inside - starts[head]).astype(np.int32)


def lcs_mask(units: list[int], others: list[int], least: float) -> Flags:
    """Which units belong to a longest common subsequence with `others`; none if it has less than that share of them.

    Bit vectors of Hyyro ("Bit-parallel LCS-length computation revisited", 2004): bit `i` of a row is off if unit `i`
    makes the subsequence longer. The way back through the rows is that of the table of the textbook algorithm.
    """
    where: dict[int, int] = {}
    for place, unit in enumerate(units):
        where[unit] = where.get(unit, 0) | 1 << place
    row = full = (1 << len(units)) - 1
    rows = []
    for unit in others:
        step = row & where.get(unit, 0)
        row = ((row + step) | (row - step)) & full
        rows.append(row)
    mask = np.zeros(len(units), np.bool_)
    if len(units) - row.bit_count() < least * len(units):
        return mask
    place, at = len(units) - 1, len(rows) - 1
    while place >= 0 and at >= 0:
        if rows[at] >> place & 1:
            place -= 1
        elif at and not rows[at - 1] >> place & 1:
            at -= 1
        else:
            mask[place] = True
            place, at = place - 1, at - 1
    return mask
