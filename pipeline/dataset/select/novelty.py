"""Which instructions are new: ROUGE-L against all that was kept, with the decisions of stanford_alpaca's filter.

There (generate_instruction.py) each instruction is scored with rouge_score against every one that was kept before, and
dropped when the largest F is above 0.7: ten hours for 52,002 instructions. Here the same numbers are computed for
the few pairs that can reach the threshold. Three bounds leave the rest out, none of which loses a pair:

    needed(m, n)   the least common length L at which m and n tokens have F(L, m, n) > threshold
    prefix         rows that share L elements, both written from the rarest to the commonest, share one among the
                   first m - L + 1 of the one and the first n - L + 1 of the other (AllPairs: Bayardo et al. 2007;
                   positions as in PPJoin: Xiao et al. 2008)
    signature      a bit that only one of the two rows has set stands for at least one element that the other lacks

What is left goes through rapidfuzz's bit-parallel longest common subsequence, and F is formed as rouge_score does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

from pipeline.dataset.select.rouge_tokens import Array, Packed, f_measure, needed, pack, ranges
from pipeline.run.progress import bar

ROW = 16  # work for a row beside its tokens
CHUNK = 1 << 14  # work: rows that are compared all with all, some 600 of ten tokens
BLOCK = 1 << 20  # work: rows that are compared with one state of the index, at most
PIECE = 1 << 18  # elements looked up at once
BATCH = 1 << 20  # candidate pairs held at once
LONG = 256  # tokens in two rows from which a cutoff pays for a call of its own
POSITIONS = 1 << 20  # later positions in a row count as this one


@dataclass(frozen=True)
class Decisions:
    """What became of each row; `neighbour` and `f` say why a row was dropped."""

    kept: Array
    """[rows] bool."""
    neighbour: Array
    """[rows] int64: place in [*fixed, *rows] of the kept row with the highest F, the first of equals; -1 if kept."""
    f: Array
    """[rows] float64: the F of that pair; 0 if kept."""


@dataclass(frozen=True)
class Index:
    """Kept rows, findable by the rarest elements of each.

    A key packs (element, length bucket, position of the element in its row), so that all rows with one element,
    about one length and a position up to a limit stand side by side.
    """

    threshold: float
    rows: Packed
    shortest: Array
    """[buckets] int64: least and largest length in each bucket."""
    longest: Array
    keys: Array
    """[postings] int64, ascending."""
    owner: Array
    """[postings + rows] int32: the row (place in `rows`) of each key; then all rows, bucket by bucket."""
    bucket_start: Array
    """[buckets + 1] int64: where in the second part of `owner` each bucket begins."""

    @classmethod
    def of(cls, rows: Packed, threshold: float) -> Index:
        lengths = np.unique(rows.length[rows.length > 0])
        label = _bucket(lengths)
        shortest = lengths[np.diff(label, prepend=-1) > 0]
        longest = lengths[np.diff(label, append=-1) != 0]
        # Even the shortest partner that can reach the threshold needs so many elements (one less, against rounding).
        least = np.maximum(np.floor(threshold * rows.length / (2 - threshold)).astype(np.int64) - 1, 1)
        count = np.clip(rows.length - least + 1 - rows.single, 0, np.diff(rows.start))
        owner = np.repeat(np.arange(len(count), dtype=np.int32), count)
        place = ranges(rows.start[:-1], count)
        position = np.minimum(place - rows.start[owner] + rows.single[owner], POSITIONS - 1)
        bucket = np.searchsorted(shortest, rows.length, "right") - 1
        keys = (rows.elements[place].astype(np.int64) * len(shortest) + bucket[owner]) * POSITIONS + position
        order = np.argsort(keys, kind="stable")
        everyone = np.argsort(bucket, kind="stable")
        bucket_start = np.searchsorted(bucket[everyone], np.arange(len(shortest) + 1))
        owner = np.concatenate([owner[order], everyone.astype(np.int32)])
        return cls(threshold, rows, shortest, longest, keys[order], owner, bucket_start)


Best = tuple[Array, Array]
"""Highest F [rows] float64 (0: none above the threshold) and the number of the row that has it [rows] int64 (or -1)."""
Spread = Callable[[Callable[[Packed], Best], Iterable[Packed]], Iterable[Best]]
"""`map`, or anything that does the same elsewhere: results in the order of the items."""


class Novelty:
    """The filter: F above `threshold` (0 < threshold <= 1) against a row that was kept drops a row."""

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"the threshold is above 0 and at most 1, this is {threshold}")
        self.threshold = threshold

    def filter(
        self,
        rows: Iterable[Sequence[str]],
        fixed: Iterable[Sequence[str]] = (),
        spread: Spread = map,
        slices: int = 1,
    ) -> Decisions:
        """Decides on each row (a list of tokens) in order, as if it were compared with all rows kept before.

        Args:
            rows: token lists, see `rouge_tokens.tokens`; a generator saves memory. Empty ones are always kept.
            fixed: rows such as seed tasks that are compared with, but not decided on.
            spread: maps a picklable function over slices of rows, for instance in other processes. The decisions do
                not depend on it.
            slices: how many `spread` gets at a time; blocks of few rows are not sent out.
        """
        fixed = list(fixed)
        packed = pack(row for part in (fixed, rows) for row in part)
        work = np.cumsum(packed.length + ROW)
        f, neighbour = np.zeros(len(work)), np.full(len(work), -1, np.int64)
        at = first = len(fixed)
        kept = np.arange(first)
        with bar(total=len(work) - first, what="novelty") as progress:
            while at < len(work):
                # A quarter of what is known at a time: then the index is built anew not often, but soon.
                most = int((packed.length[kept] + ROW).sum()) // 4
                block = np.arange(at, _end(work, at, min(max(most, CHUNK), BLOCK)))
                index = Index.of(packed.take(kept), self.threshold)
                parts = np.array_split(block, max(min(slices, most // CHUNK, len(block)), 1))
                run: Spread = spread if len(parts) > 1 else map
                found = list(run(partial(nearest, index), (packed.take(part) for part in parts)))
                f[block], neighbour[block] = (np.concatenate(column) for column in zip(*found, strict=True))
                kept = np.concatenate([kept, self._settle(packed, work, block, (f, neighbour))])
                at += len(block)
                progress.update(len(block))
        return Decisions(neighbour[first:] < 0, neighbour[first:], f[first:])

    def _settle(self, packed: Packed, work: Array, block: Array, best: Best) -> Array:
        """Compares the rows of a block with each other, and returns those that are kept.

        `best` holds what is known from rows before the block, and gets the final answer.
        """
        f, neighbour = best
        kept = np.zeros(0, np.int64)
        at, end = int(block[0]), int(block[-1]) + 1
        while at < end:
            chunk = np.arange(at, min(_end(work, at, CHUNK), end))
            rows = packed.take(chunk)
            score, number = nearest(Index.of(packed.take(kept), self.threshold), rows)
            better = score > f[chunk]  # of equals the first stays
            f[chunk[better]], neighbour[chunk[better]] = score[better], number[better]
            still = rows.take(np.flatnonzero(neighbour[chunk] < 0))
            self._decide(Index.of(still, self.threshold), rows, best)
            kept = np.concatenate([kept, chunk[neighbour[chunk] < 0]])
            at += len(chunk)
        return kept

    def _decide(self, index: Index, rows: Packed, best: Best) -> None:
        """The one step that goes row by row: a row counts as a neighbour only if it was kept itself."""
        f, neighbour = best
        found = list(pairs(index, rows))
        if not found:
            return
        row, other, score = (np.concatenate(column) for column in zip(*found, strict=True))
        row, other = rows.number[row], index.rows.number[other]
        order = np.lexsort((other, -score, row))
        undecided = set(index.rows.number.tolist())
        for i, j, value in zip(row[order].tolist(), other[order].tolist(), score[order].tolist(), strict=True):
            if j in undecided and value > f[i]:  # the best comes first, so only one per row passes
                f[i], neighbour[i] = value, j
                undecided.discard(i)


def nearest(index: Index, rows: Packed) -> Best:
    """For each row the earlier row of the index with the highest F above the threshold, the first of equals.

    Pure and picklable, so that slices of rows can be worked on anywhere.
    """
    f, number = np.zeros(len(rows.length)), np.full(len(rows.length), -1, np.int64)
    for row, other, score in pairs(index, rows):
        order = np.lexsort((other, -score, row))
        row, other, score = row[order], index.rows.number[other[order]], score[order]
        first = np.diff(row, prepend=-1) > 0
        row, other, score = row[first], other[first], score[first]
        better = (score > f[row]) | ((score == f[row]) & (other < number[row]))
        f[row[better]], number[row[better]] = score[better], other[better]
    return f, number


def pairs(index: Index, rows: Packed) -> Iterator[tuple[Array, Array, Array]]:
    """All pairs of a row and an earlier one of the index with F above the threshold.

    Yields (place in rows, place in index.rows, F), some pairs more than once, some hundred thousand at a time.
    """
    if not len(index.keys) or not len(rows.length):
        return
    piece = (rows.start[:-1] + np.arange(len(rows.length)) * ROW) // PIECE
    for part in np.split(np.arange(len(rows.length)), np.flatnonzero(np.diff(piece)) + 1):
        row, need, first, count = _look_up(index, rows, part)
        for lot in np.split(np.arange(len(row)), np.flatnonzero(np.diff((np.cumsum(count) - count) // BATCH)) + 1):
            other = index.owner[ranges(first[lot], count[lot])]
            yield _compare(index, rows, np.repeat(row[lot], count[lot]), other, np.repeat(need[lot], count[lot]))


def _look_up(index: Index, rows: Packed, part: Array) -> tuple[Array, Array, Array, Array]:
    """Row, least common length, first place in `owner` and number of places, for each (row, bucket, element).

    Where a bucket has fewer rows than the elements of a row have postings there, it is taken whole and once.
    """
    lengths, which = np.unique(np.maximum(rows.length[part], 1), return_inverse=True)
    m = lengths[:, None]
    need = needed(m, index.shortest[None, :], index.threshold)
    limit = index.longest - needed(m, index.longest[None, :], index.threshold)
    possible = (need <= np.minimum(m, index.longest)) & (limit >= 0)
    prefix = np.where(possible, m - need + 1, 0)
    count = np.clip(prefix[which] - rows.single[part, None], 0, (rows.start[part + 1] - rows.start[part])[:, None])
    place, bucket = np.nonzero(count)
    count = count[place, bucket]
    element = rows.elements[ranges(rows.start[part[place]], count)].astype(np.int64)
    low = (element * len(index.shortest) + np.repeat(bucket, count)) * POSITIONS
    last = np.minimum(limit, POSITIONS - 1)[which[place], bucket]
    first = np.searchsorted(index.keys, low)
    found = np.searchsorted(index.keys, low + np.repeat(last, count), "right") - first
    group = np.repeat(np.arange(len(place)), count)
    size = np.diff(index.bucket_start)[bucket]
    crowded = np.bincount(group, found, minlength=len(place)) > size
    hit = np.flatnonzero((found > 0) & ~crowded[group])
    group = np.concatenate([group[hit], np.flatnonzero(crowded)])
    first = np.concatenate([first[hit], (len(index.keys) + index.bucket_start[bucket])[crowded]])
    found = np.concatenate([found[hit], size[crowded]])
    return part[place[group]], need[which[place], bucket][group], first, found


def _compare(index: Index, rows: Packed, row: Array, other: Array, need: Array) -> tuple[Array, Array, Array]:
    """The candidates that are earlier rows and have F above the threshold; `need` is a lower bound for each pair."""
    theirs = index.rows
    mine, its = rows.signature[row], theirs.signature[other]
    left = rows.length[row] - rows.single[row] - np.bitwise_count(mine & ~its)
    right = theirs.length[other] - theirs.single[other] - np.bitwise_count(its & ~mine)
    likely = (left >= need) & (right >= need) & (theirs.number[other] < rows.number[row])
    count = len(theirs.length)
    row, other = np.divmod(np.unique(row[likely] * count + other[likely]), count)
    m, n = rows.length[row], theirs.length[other]
    long = np.flatnonzero(m + n >= LONG)
    short = np.flatnonzero(m + n < LONG)
    common = np.zeros(len(row), np.int64)
    common[short] = cpdist(rows.texts(row[short]), theirs.texts(other[short]), scorer=LCSseq.similarity, dtype=np.int32)
    least = needed(m[long], n[long], index.threshold)
    likely = _overlap(rows, theirs, row[long], other[long]) >= least
    long, least = long[likely], least[likely]
    one, two = _texts(rows, row[long]), _texts(theirs, other[long])
    for k, cutoff in zip(long.tolist(), least.tolist(), strict=True):
        common[k] = LCSseq.similarity(one[row[k]], two[other[k]], score_cutoff=cutoff)
    some = common > 0
    row, other, score = row[some], other[some], f_measure(common[some], m[some], n[some])
    above = score > index.threshold
    return row[above], other[above], score[above]


def _overlap(rows: Packed, theirs: Packed, row: Array, other: Array) -> Array:
    """Elements that each pair of rows has in common; `row` ascending."""
    common = np.zeros(len(row), np.int64)
    if not len(row) or not len(theirs.elements):
        return common
    mine = np.zeros(int(max(rows.elements.max(initial=0), theirs.elements.max())) + 1, bool)
    size = np.diff(theirs.start)[other]
    work = (np.cumsum(size) - size) // BATCH
    for part in np.split(np.arange(len(row)), np.flatnonzero(np.diff(row) + np.diff(work)) + 1):
        own = rows.elements[rows.start[row[part[0]]] : rows.start[row[part[0]] + 1]]
        mine[own] = True
        hits = np.cumsum(mine[theirs.elements[ranges(theirs.start[other[part]], size[part])]])
        last = np.cumsum(size[part])
        common[part] = np.diff(np.append(0, np.append(0, hits)[last]))
        mine[own] = False
    return common


def _texts(rows: Packed, chosen: Array) -> dict[int, Sequence[int | str]]:
    """The texts of these rows, each made once."""
    places = np.unique(chosen)
    return dict(zip(places.tolist(), rows.texts(places), strict=True))


def _end(work: Array, at: int, most: int) -> int:
    """The end of the run of rows from `at` on with so much work at most, one row at least."""
    before = int(work[at - 1]) if at else 0
    return max(int(np.searchsorted(work, before + most, "right")), at + 1)


def _bucket(lengths: Array) -> Array:
    """Lengths below 32 one by one, longer ones by steps of a sixteenth: looser bounds, but few look-ups."""
    edges = list(range(32))
    while edges[-1] < 1 << 40:
        edges.append(edges[-1] + max(edges[-1] // 16, 1))
    return np.searchsorted(np.array(edges), lengths, "right")
