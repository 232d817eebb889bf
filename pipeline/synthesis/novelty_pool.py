"""A pool of instructions that grows; for a new one it finds the most similar by ROUGE-L.

The decisions are those of `pipeline/dataset/select/novelty.py`, which compares whole sets of rows at once; here one row
is asked for and one is added at a time.

    token, k-th occurrence -> rows that have it         rows: token lists as strings, a character for each token
      |
      |  of m elements of the new row the m - t + 1 rarest; rows that share t elements with it share one of these
      v
    rows with enough common elements -> longest common subsequence (rapidfuzz) -> F

t is the smallest number of common tokens with which any row can be above the threshold (`rouge_tokens.needed`). It is
the prefix filter of AllPairs (Bayardo et al. 2007), with the order of the elements chosen anew for each new row.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from pipeline.dataset.select.ragged import Array
from pipeline.dataset.select.rouge_tokens import CODES, SURROGATES, f_measure, needed

GROWTH = 1.5  # factor by which the array of lengths grows
LONG = 256  # tokens of two rows together; longer pairs are compared one by one, with a cutoff, which is faster


class Similar(NamedTuple):
    """The most similar row: its number in the pool, and F."""

    number: int
    f: float


class NoveltyPool:
    """Token lists (`rouge_tokens.tokens`), numbered from 0 in the order in which they are added."""

    def __init__(self) -> None:
        self._texts: list[Sequence[int | str]] = []
        self._lengths = np.zeros(1024, np.int64)
        self._symbols: dict[str, int] = {}
        self._rows_of: dict[tuple[str, int], array[int]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, words: Sequence[str]) -> int:
        """Adds a row and returns its number."""
        number = len(self._texts)
        if number == len(self._lengths):
            self._lengths = np.resize(self._lengths, int(number * GROWTH))
        self._lengths[number] = len(words)
        for word in words:
            self._symbols.setdefault(word, len(self._symbols))
        self._texts.append(self._text(words))
        for element in _elements(words):
            self._rows_of.setdefault(element, array("i")).append(number)
        return number

    def nearest(self, words: Sequence[str], threshold: float, without: Collection[int] = ()) -> Similar | None:
        """The row with the highest F above the threshold, the first of equals; None if there is none.

        Args:
            threshold: above 0. The lower, the slower.
            without: numbers of rows that are not compared.
        """
        count = len(self._texts)
        if not words or not count:
            return None
        m, lengths = len(words), self._lengths[:count]
        # The least number of common tokens, and of rows about as short as they may be: fewer common ones never suffice.
        least = max(int(np.floor(threshold * m / (2 - threshold))) - 1, 1)
        rows_of = sorted((self._rows_of.get(element, _NONE) for element in _elements(words)), key=len)
        shared = [np.frombuffer(rows, np.int32) for rows in rows_of[: m - least + 1] if rows]
        if not shared:
            return None
        common = np.bincount(np.concatenate(shared), minlength=count)
        some = np.flatnonzero(common)
        need = needed(np.full(len(some), m), lengths[some], threshold)
        possible = (common[some] + (least - 1) >= need) & (need <= np.minimum(m, lengths[some]))
        possible[np.isin(some, list(without))] = False
        some, need = some[possible], need[possible]
        common = self._common(self._text(words), m, some, need)
        f = np.zeros(len(some))
        f[common > 0] = f_measure(common[common > 0], np.full(len(some), m)[common > 0], lengths[some[common > 0]])
        if not len(f) or f.max() <= threshold:
            return None
        best = int(np.argmax(f))
        return Similar(int(some[best]), float(f[best]))

    def _common(self, text: Sequence[int | str], m: int, rows: Array, need: Array) -> Array:
        """Lengths of the longest common subsequences with these rows; 0 where it is shorter than needed. int64."""
        common = np.zeros(len(rows), np.int64)
        is_long = m + self._lengths[rows] >= LONG
        if len(short := np.flatnonzero(~is_long)):
            texts = [self._texts[row] for row in rows[short].tolist()]
            common[short] = cdist([text], texts, scorer=LCSseq.similarity, dtype=np.int32)[0]
        for k in np.flatnonzero(is_long).tolist():
            common[k] = LCSseq.similarity(text, self._texts[int(rows[k])], score_cutoff=int(need[k]))
        return common

    def _text(self, words: Sequence[str]) -> Sequence[int | str]:
        """A character for each token; unknown tokens, which match nothing, have one that no row has."""
        codes = [_code(self._symbols.get(word, -1)) for word in words]
        return "".join(map(chr, codes)) if max(codes, default=0) < CODES else codes


_NONE: array[int] = array("i")


def rouge_l(words: Sequence[str], others: Sequence[str]) -> float:
    """F of two token lists."""
    pool = NoveltyPool()
    pool.add(others)
    nearest = pool.nearest(words, 1e-9)
    return nearest.f if nearest else 0.0


def _code(symbol: int) -> int:
    """A code point for a symbol, without the surrogates; 0 for none."""
    return symbol + 1 + len(SURROGATES) * (symbol + 1 >= SURROGATES.start)


def _elements(words: Sequence[str]) -> list[tuple[str, int]]:
    """(token, k-th occurrence): with them the overlap of two rows as multisets is an overlap of sets."""
    seen: Counter[str] = Counter()
    elements = []
    for word in words:
        elements.append((word, seen[word]))
        seen[word] += 1
    return elements
