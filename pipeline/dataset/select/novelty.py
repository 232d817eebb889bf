"""Which instructions are novel: ROUGE-L against all that were kept, with the decisions of stanford_alpaca's filter.

There (generate_instruction.py) rouge_score compares each instruction with every one that was kept before, and drops it
if the largest F is above 0.7: ten hours for 52,002 instructions. Here the same F is computed only for the few pairs
that can reach the threshold; three bounds exclude the others without losing a pair.

    rows as token lists, in order
      | pack                   PackedRows: elements [E] int32, rarest first in each row; symbols [T] uint32
      v
    block of rows [B]                                kept rows [K]
      |                                                | Index.of: a key (element, length, position) for each of
      |                                                v           the rarest elements of a row; keys [P] int64
      +-- _look_up   same rare element -------------> keys       candidates [C]: rows [C] int64, kept rows [C] int32
      |                                                              |
      |   _compare   enough common bits in signatures [C] uint64 ----+--> pairs [D]
      |              longest common subsequence (rapidfuzz) [D] int64 --> F [D] float64, those above the threshold
      v
    _settle: the remaining rows of the block with each other, chunk by chunk, in order --> kept rows grow

    bound        threshold 0.7, two rows of 5 tokens, so F = 2 L / (5 + 5) > 0.7 needs L = 4 common tokens
    needed       L is computed from both lengths before anything is compared: 4
    prefix       row A  rarest [a b] c d e       Rows with 4 of 5 elements in common share at least one of the first
                 row B         [b x] c d e       5 - 4 + 1 = 2 of both. Here b. (AllPairs: Bayardo et al. 2007;
                                                 positions as in PPJoin: Xiao et al. 2008)
    signature    A 0110.. B 0101..               Each bit that only A has is at least one element that B lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

from pipeline.dataset.select.ragged import Array, first_of_groups, ranges
from pipeline.dataset.select.rouge_tokens import PackedRows, f_measure, needed, pack
from pipeline.run.progress import bar

ROW_WORK = 16  # work for a row in addition to one unit for each token
CHUNK = 1 << 14  # work: rows that are compared all with all, about 600 of ten tokens
BLOCK = 1 << 20  # work: rows that are compared with one index at most
PIECE = 1 << 18  # elements that are looked up at once
BATCH = 1 << 20  # candidate pairs in memory
LONG = 256  # tokens of two rows together; longer pairs are compared one by one with a cutoff, which is faster
POSITIONS = 1 << 20  # positions in a row that a key can hold; later ones count as the last


@dataclass(frozen=True)
class Decisions:
    """The decision on each row."""

    kept: Array
    """[rows] bool."""
    neighbour: Array
    """[rows] int64: the kept row with the highest F, the first of equals; -1 if the row is kept."""
    f: Array
    """[rows] float64: the F of that pair; 0 if the row is kept."""


@dataclass(frozen=True)
class Index:
    """Kept rows, found by their rarest elements.

    A key combines (element, length bucket, position of the element in its row), so that all rows with one element,
    about one length and a position up to a limit are neighbours in `keys`.
    """

    threshold: float
    rows: PackedRows
    shortest: Array
    """[buckets] int64: the smallest length in each bucket."""
    longest: Array
    """[buckets] int64: the largest length in each bucket."""
    keys: Array
    """[postings] int64, ascending."""
    owner: Array
    """[postings + rows] int32: the row (position in `rows`) of each key; then all rows, bucket by bucket."""
    bucket_start: Array
    """[buckets + 1] int64: where each bucket begins in the second part of `owner`."""

    @classmethod
    def of(cls, rows: PackedRows, threshold: float) -> Index:
        lengths = np.unique(rows.length[rows.length > 0])
        label = _bucket(lengths)
        shortest = lengths[np.diff(label, prepend=-1) > 0]
        longest = lengths[np.diff(label, append=-1) != 0]
        # Common tokens that the shortest possible partner needs (one less, against rounding).
        least = np.maximum(np.floor(threshold * rows.length / (2 - threshold)).astype(np.int64) - 1, 1)
        count = np.clip(rows.length - least + 1 - rows.single, 0, np.diff(rows.start))
        owner = np.repeat(np.arange(len(count), dtype=np.int32), count)
        place = ranges(rows.start[:-1], count)
        position = np.minimum(place - rows.start[owner] + rows.single[owner], POSITIONS - 1)
        bucket = np.searchsorted(shortest, rows.length, "right") - 1
        keys = (rows.elements[place].astype(np.int64) * len(shortest) + bucket[owner]) * POSITIONS + position
        order = np.argsort(keys, kind="stable")
        by_bucket = np.argsort(bucket, kind="stable")
        bucket_start = np.searchsorted(bucket[by_bucket], np.arange(len(shortest) + 1))
        owner = np.concatenate([owner[order], by_bucket.astype(np.int32)])
        return cls(threshold, rows, shortest, longest, keys[order], owner, bucket_start)


Best = tuple[Array, Array]
"""Highest F [rows] float64 (0: none above the threshold) and the number of the row that has it [rows] int64 (or -1)."""
Map = Callable[[Callable[[PackedRows], Best], Iterable[PackedRows]], Iterable[Best]]
"""`map`, or a function that does the same in other processes: results in the order of the items."""


def filter_novel(rows: Iterable[Sequence[str]], threshold: float, spread: Map = map, slices: int = 1) -> Decisions:
    """Drops each row whose F against a kept row is above the threshold; in order, one row after the other.

    Args:
        rows: token lists, see `rouge_tokens.tokens`; a generator saves memory. Empty ones are always kept.
        threshold: above 0 and at most 1.
        spread: maps a picklable function over slices of rows, for instance in other processes. The decisions do not
            depend on it.
        slices: number of slices for `spread`; small blocks are not spread.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is above 0 and at most 1, this is {threshold}")
    packed = pack(rows)
    work = np.cumsum(packed.length + ROW_WORK)
    best = np.zeros(len(work)), np.full(len(work), -1, np.int64)
    kept, at = np.zeros(0, np.int64), 0
    with bar(total=len(work), what="novelty") as progress:
        while at < len(work):
            # A quarter of the kept rows at a time: the index is built rarely, and soon covers most rows.
            most = int((packed.length[kept] + ROW_WORK).sum()) // 4
            block = np.arange(at, _end(work, at, min(max(most, CHUNK), BLOCK)))
            index = Index.of(packed.take(kept), threshold)
            pieces = np.array_split(block, max(min(slices, most // CHUNK, len(block)), 1))
            run: Map = spread if len(pieces) > 1 else map
            results = list(run(partial(nearest, index), (packed.take(piece) for piece in pieces)))
            for column, values in zip(best, zip(*results, strict=True), strict=True):
                column[block] = np.concatenate(values)
            kept = np.concatenate([kept, _settle(packed, work, block, best, threshold)])
            at += len(block)
            progress.update(len(block))
    f, neighbour = best
    return Decisions(neighbour < 0, neighbour, f)


def _settle(packed: PackedRows, work: Array, block: Array, best: Best, threshold: float) -> Array:
    """Compares the rows of a block with each other and returns those that are kept.

    best: the result against the rows before the block; becomes the final one.
    """
    f, neighbour = best
    kept = np.zeros(0, np.int64)
    at, end = int(block[0]), int(block[-1]) + 1
    while at < end:
        chunk = np.arange(at, min(_end(work, at, CHUNK), end))
        rows = packed.take(chunk)
        score, number = nearest(Index.of(packed.take(kept), threshold), rows)
        better = score > f[chunk]  # of equals the first stays
        f[chunk[better]], neighbour[chunk[better]] = score[better], number[better]
        undecided = rows.take(np.flatnonzero(neighbour[chunk] < 0))
        _decide_in_order(Index.of(undecided, threshold), rows, best)
        kept = np.concatenate([kept, chunk[neighbour[chunk] < 0]])
        at += len(chunk)
    return kept


def _decide_in_order(index: Index, rows: PackedRows, best: Best) -> None:
    """The only step that goes row by row: a row counts as a neighbour only if it was kept itself."""
    f, neighbour = best
    if not (batches := list(pairs(index, rows))):
        return
    row, other, score = (np.concatenate(column) for column in zip(*batches, strict=True))
    row, other = rows.number[row], index.rows.number[other]
    order = np.lexsort((other, -score, row))
    kept = set(index.rows.number.tolist())
    for i, j, value in zip(row[order].tolist(), other[order].tolist(), score[order].tolist(), strict=True):
        if j in kept and value > f[i]:  # the best comes first, so only one of each row passes
            f[i], neighbour[i] = value, j
            kept.discard(i)


def nearest(index: Index, rows: PackedRows) -> Best:
    """For each row the earlier row of the index with the highest F above the threshold, the first of equals.

    Pure and picklable, so slices of rows can be processed anywhere.
    """
    f, number = np.zeros(len(rows.length)), np.full(len(rows.length), -1, np.int64)
    for row, other, score in pairs(index, rows):
        order = np.lexsort((other, -score, row))
        row, other, score = row[order], index.rows.number[other[order]], score[order]
        first = first_of_groups(row)
        row, other, score = row[first], other[first], score[first]
        better = (score > f[row]) | ((score == f[row]) & (other < number[row]))
        f[row[better]], number[row[better]] = score[better], other[better]
    return f, number


def pairs(index: Index, rows: PackedRows) -> Iterator[tuple[Array, Array, Array]]:
    """All pairs of a row and an earlier one of the index with F above the threshold.

    Yields batches of (position in rows, position in index.rows, F); a pair may occur in several batches.
    """
    if not len(index.keys) or not len(rows.length):
        return
    piece = (rows.start[:-1] + np.arange(len(rows.length)) * ROW_WORK) // PIECE
    for chosen in np.split(np.arange(len(rows.length)), np.flatnonzero(np.diff(piece)) + 1):
        row, need, first, count = _look_up(index, rows, chosen)
        for lot in np.split(np.arange(len(row)), np.flatnonzero(np.diff((np.cumsum(count) - count) // BATCH)) + 1):
            other = index.owner[ranges(first[lot], count[lot])]
            yield _compare(index, rows, np.repeat(row[lot], count[lot]), other, np.repeat(need[lot], count[lot]))


def _look_up(index: Index, rows: PackedRows, chosen: Array) -> tuple[Array, Array, Array, Array]:
    """Candidates as ranges of `owner`: row, needed common length, first index, count; one range for each (row, element,
    bucket). A bucket with fewer rows than postings for the elements of a row is taken as a whole instead.
    """
    lengths, which = np.unique(np.maximum(rows.length[chosen], 1), return_inverse=True)
    m = lengths[:, None]
    need = needed(m, index.shortest[None, :], index.threshold)  # (lengths, buckets)
    limit = index.longest - needed(m, index.longest[None, :], index.threshold)  # last position of a shared element
    possible = (need <= np.minimum(m, index.longest)) & (limit >= 0)
    prefix = np.where(possible, m - need + 1, 0)
    count = np.clip(
        prefix[which] - rows.single[chosen, None], 0, (rows.start[chosen + 1] - rows.start[chosen])[:, None]
    )
    place, bucket = np.nonzero(count)
    count = count[place, bucket]
    element = rows.elements[ranges(rows.start[chosen[place]], count)].astype(np.int64)
    low = (element * len(index.shortest) + np.repeat(bucket, count)) * POSITIONS
    last = np.minimum(limit, POSITIONS - 1)[which[place], bucket]
    first = np.searchsorted(index.keys, low)
    postings = np.searchsorted(index.keys, low + np.repeat(last, count), "right") - first
    group = np.repeat(np.arange(len(place)), count)  # of each element: its (row, bucket)
    size = np.diff(index.bucket_start)[bucket]
    whole = np.bincount(group, postings, minlength=len(place)) > size
    hit = np.flatnonzero((postings > 0) & ~whole[group])
    group = np.concatenate([group[hit], np.flatnonzero(whole)])
    first = np.concatenate([first[hit], (len(index.keys) + index.bucket_start[bucket])[whole]])
    postings = np.concatenate([postings[hit], size[whole]])
    return chosen[place[group]], need[which[place], bucket][group], first, postings


def _compare(index: Index, rows: PackedRows, row: Array, other: Array, need: Array) -> tuple[Array, Array, Array]:
    """The candidates that are earlier rows with F above the threshold. need: a lower bound of each pair's length."""
    theirs = index.rows
    bits, other_bits = rows.signature[row], theirs.signature[other]
    most = rows.length[row] - rows.single[row] - np.bitwise_count(bits & ~other_bits)
    other_most = theirs.length[other] - theirs.single[other] - np.bitwise_count(other_bits & ~bits)
    possible = (most >= need) & (other_most >= need) & (theirs.number[other] < rows.number[row])
    row, other = np.divmod(np.unique(row[possible] * len(theirs.length) + other[possible]), len(theirs.length))
    m, n = rows.length[row], theirs.length[other]
    common = np.zeros(len(row), np.int64)
    short, long = np.flatnonzero(m + n < LONG), np.flatnonzero(m + n >= LONG)
    common[short] = cpdist(rows.texts(row[short]), theirs.texts(other[short]), scorer=LCSseq.similarity, dtype=np.int32)
    least = needed(m[long], n[long], index.threshold)
    possible = _common_elements(rows, theirs, row[long], other[long]) >= least
    long, least = long[possible], least[possible]
    texts, other_texts = _texts_by_row(rows, row[long]), _texts_by_row(theirs, other[long])
    for k, cutoff in zip(long.tolist(), least.tolist(), strict=True):
        common[k] = LCSseq.similarity(texts[row[k]], other_texts[other[k]], score_cutoff=cutoff)
    some = common > 0
    row, other, score = row[some], other[some], f_measure(common[some], m[some], n[some])
    above = score > index.threshold
    return row[above], other[above], score[above]


def _common_elements(rows: PackedRows, theirs: PackedRows, row: Array, other: Array) -> Array:
    """Number of elements that each pair of rows has in common; `row` ascending."""
    common = np.zeros(len(row), np.int64)
    if not len(row) or not len(theirs.elements):
        return common
    mask = np.zeros(int(max(rows.elements.max(initial=0), theirs.elements.max())) + 1, bool)
    size = np.diff(theirs.start)[other]
    work = (np.cumsum(size) - size) // BATCH
    for batch in np.split(np.arange(len(row)), np.flatnonzero(np.diff(row) + np.diff(work)) + 1):
        own = rows.elements[rows.start[row[batch[0]]] : rows.start[row[batch[0]] + 1]]
        mask[own] = True
        hits = np.cumsum(mask[theirs.elements[ranges(theirs.start[other[batch]], size[batch])]])
        last = np.cumsum(size[batch])
        common[batch] = np.diff(np.append(0, np.append(0, hits)[last]))
        mask[own] = False
    return common


def _texts_by_row(rows: PackedRows, chosen: Array) -> dict[int, Sequence[int | str]]:
    places = np.unique(chosen)
    return dict(zip(places.tolist(), rows.texts(places), strict=True))


def _end(work: Array, at: int, most: int) -> int:
    """The end of the rows from `at` on with at most so much work; at least one row."""
    before = int(work[at - 1]) if at else 0
    return max(int(np.searchsorted(work, before + most, "right")), at + 1)


def _bucket(lengths: Array) -> Array:
    """Bucket of each length: single lengths below 32, then steps of a sixteenth (looser bounds, fewer look-ups)."""
    edges = list(range(32))
    while edges[-1] < 1 << 40:
        edges.append(edges[-1] + max(edges[-1] // 16, 1))
    return np.searchsorted(np.array(edges), lengths, "right")
