"""What texts have in common: runs of units that many texts are searched for at once, and subsequences of two texts.

Texts are hashes of units (`shingle`), one after the other in a flat array: text `t` is `flat[starts[t]:starts[t + 1]]`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.select import shingle
from pipeline.dataset.select.shingle import Hashes

Numbers = NDArray[np.int64]
Small = NDArray[np.int32]
Flags = NDArray[np.bool_]

FEW = 10
"""A run that more texts than that have is a phrase of the trade ("which of the following"), and a sign of none."""
RAREST = 8
"""So many of a text's rarest runs are looked for, however many others have them."""


class Runs:
    """The runs to look for: sorted hashes, and for each the texts that hold it and where in them.

    Of a text in `long` every run that few have and the rarest ones are kept, of any other only the rarest one.
    `telling` says which units are inside of a run that few texts have. Shape (units,).
    """

    def __init__(self, flat: Hashes, starts: Numbers, length: int, chosen: Flags, long: Flags) -> None:
        values, text, at = _runs(flat, starts, length, chosen)
        order = np.argsort(values, kind="stable")
        count = np.diff(np.append(_firsts(values[order]), len(values))).astype(np.int32)
        others = np.empty(len(values), np.int32)
        others[order] = np.repeat(count, count)
        self.telling = np.zeros(len(flat), np.bool_)
        few = (starts[text] + at)[others <= FEW]
        for k in range(length):
            self.telling[few + k] = True
        rarest = np.lexsort((others, text))  # texts stay in order
        first = _firsts(text)
        rank = np.empty(len(text), np.int32)
        rank[rarest] = np.arange(len(text)) - np.repeat(first, np.diff(np.append(first, len(text))))
        kept = np.where(long[text], (others <= FEW) | (rank < RAREST), rank == 0)
        order = order[kept[order]]
        values, self.text, self.at = values[order], text[order], at[order]
        first = _firsts(values)
        self.length, self.values, self.first = length, values[first], np.append(first, len(values))
        self.shift = np.uint64(64 - min(max(16, len(first).bit_length() + 3), 26))
        self.sieve = np.zeros(1 << (64 - int(self.shift)), np.bool_)  # leading bits: most runs of a row end here
        self.sieve[self.values >> self.shift] = True

    def find(self, flat: Hashes, starts: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """For each run that a row shares with a text: row, text, and where the text would begin in the row."""
        if not len(self.values):
            return (np.zeros(0, np.int64),) * 3
        values, row, at = _runs(flat, starts, self.length)
        some = np.flatnonzero(self.sieve[values >> self.shift])
        place = np.minimum(np.searchsorted(self.values, values[some]), len(self.values) - 1)
        same = self.values[place] == values[some]
        some, place = some[same], place[same]
        count = self.first[place + 1] - self.first[place]
        each = np.repeat(self.first[place] - np.cumsum(count) + count, count) + np.arange(count.sum())
        some = np.repeat(some, count)
        return row[some].astype(np.int64), self.text[each].astype(np.int64), at[some].astype(np.int64) - self.at[each]


def _runs(flat: Hashes, starts: Numbers, length: int, chosen: Flags | None = None) -> tuple[Hashes, Small, Small]:
    """Runs inside one text each, of all texts or the chosen ones: hashes, text, place in the text."""
    if len(flat) < length:
        return flat[:0], np.zeros(0, np.int32), np.zeros(0, np.int32)
    text = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    head, tail = text[: len(flat) - length + 1], text[length - 1 :]
    inside = np.flatnonzero(head == tail if chosen is None else (head == tail) & chosen[head])
    head = head[inside]
    return shingle.runs(flat, length)[inside], head, (inside - starts[head]).astype(np.int32)


def _firsts(values: NDArray[np.generic]) -> Numbers:
    """Where each new value begins."""
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])


def in_order(units: list[int], stretch: list[int], least: float) -> Flags:
    """Which units belong to a longest common subsequence; none if it is shorter than `least` of them.

    Bit vectors of Hyyro ("Bit-parallel LCS-length computation revisited", 2004): bit `i` of a row is off where unit `i`
    makes the subsequence longer. The way back through the rows is as in a table.
    """
    where: dict[int, int] = {}
    for place, unit in enumerate(units):
        where[unit] = where.get(unit, 0) | 1 << place
    row = full = (1 << len(units)) - 1
    rows = []
    for unit in stretch:
        step = row & where.get(unit, 0)
        row = ((row + step) | (row - step)) & full
        rows.append(row)
    there = np.zeros(len(units), np.bool_)
    if len(units) - row.bit_count() < least * len(units):
        return there
    place, at = len(units) - 1, len(rows) - 1
    while place >= 0 and at >= 0:
        if rows[at] >> place & 1:
            place -= 1
        elif at and not rows[at - 1] >> place & 1:
            at -= 1
        else:
            there[place] = True
            place, at = place - 1, at - 1
    return there
