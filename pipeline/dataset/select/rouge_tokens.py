"""Data of ROUGE-L: texts as tokens, the token lists of many rows as arrays, and F.

`tokens` is rouge_score's default tokenizer for English. It keeps only a-z and 0-9, so that every Korean text would be
an empty list; other languages have a wider rule, which gives the same result for ASCII text.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.dataset.select.ragged import Array, starts_of, take_rows

WORD = re.compile(r"[a-z0-9]+")
# Scripts without spaces between words, or whose words carry particles: a token for each character.
HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7ff"
KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CHARACTER = HANGUL + KANA + HAN
WORD_OR_CHARACTER = re.compile(rf"[a-z0-9]+|[{CHARACTER}]|[^\W_a-z0-9{CHARACTER}]+")

SURROGATES = range(0xD800, 0xE000)
CODES = 0x110000  # number of code points that a string can hold


def tokens(text: str, language: str) -> list[str]:
    """The tokens that ROUGE-L counts.

    For `en`: exactly rouge_score's default tokenizer without stemming, which drops accents and other scripts.
    For other languages: the same words of a-z and 0-9, one token for each Hangul syllable, Han or kana character, and
    the words of other alphabets. Syllables, because particles and endings are part of Korean words: "날씨를" and
    "날씨가" are different words, but share two of three syllables.
    """
    if language == "en":
        return WORD.findall(text.lower())
    return WORD_OR_CHARACTER.findall(unicodedata.normalize("NFC", text.lower()))


@dataclass(frozen=True)
class PackedRows:
    """Token lists of n rows as arrays; small to send to another process.

        row       the cat the end
        elements  (the, 1) (cat, 1) (the, 2) (end, 1)   numbered by frequency over all rows, rarest first
        symbols   the cat the end                       in their order, for the longest common subsequence

    With elements (token, k-th occurrence) the overlap of two rows as multisets is an overlap of sets. Elements that no
    other row has are only counted (`single`); tokens that no other row has are not in `symbols`: they match nothing.
    """

    number: Array
    """[n] int64, ascending: the number of each row among all rows."""
    length: Array
    """[n] int64: tokens in each row, including those left out of `symbols`."""
    single: Array
    """[n] int64: elements that no other row has."""
    signature: Array
    """[n] uint64: a bit for each element; several elements share a bit."""
    start: Array
    """[n + 1] int64: row i owns elements[start[i] : start[i + 1]]."""
    elements: Array
    """int32, ascending within a row."""
    text_start: Array
    """[n + 1] int64: row i owns symbols[text_start[i] : text_start[i + 1]]."""
    symbols: Array
    """uint32, the tokens of each row in their order, as code points other than surrogates."""
    wide: bool
    """Whether there are more symbols than code points."""

    def take(self, chosen: Array) -> PackedRows:
        """The rows at these positions (int64, ascending)."""
        start, elements = take_rows(self.start, self.elements, chosen)
        text_start, symbols = take_rows(self.text_start, self.symbols, chosen)
        return PackedRows(
            self.number[chosen], self.length[chosen], self.single[chosen], self.signature[chosen],
            start, elements, text_start, symbols, self.wide,
        )  # fmt: skip

    def texts(self, chosen: Array) -> list[Sequence[int | str]]:
        """The symbols of these rows, as strings with one character for each token: rapidfuzz is fastest on them."""
        bounds = zip(self.text_start[chosen].tolist(), self.text_start[chosen + 1].tolist(), strict=True)
        if self.wide:
            return [self.symbols[first:last].tolist() for first, last in bounds]
        return [self.symbols[first:last].tobytes().decode("utf-32-le") for first, last in bounds]


def pack(rows: Iterable[Sequence[str]]) -> PackedRows:
    """All rows that are compared with each other."""
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__
    flat, lengths = array("i"), array("q")
    for words in rows:
        flat.extend([vocabulary[word] for word in words])
        lengths.append(len(words))
    token, length = np.frombuffer(flat, np.int32), np.frombuffer(lengths, np.int64)
    size = max(len(vocabulary), 1)
    del vocabulary
    row = np.repeat(np.arange(len(length)), length)
    element = _elements(row, token, size)
    rarity = np.bincount(element)
    shared = rarity[element] > 1
    single = length - np.bincount(row[shared], minlength=len(length))
    rank = np.empty(len(rarity), np.int64)
    rank[np.argsort(rarity, kind="stable")] = np.arange(len(rarity))
    ordered = row[shared] * max(len(rarity), 1) + rank[element[shared]]
    ordered.sort()
    elements = (ordered % max(len(rarity), 1)).astype(np.int32)
    start = starts_of(length - single)
    del ordered
    rows_with = np.bincount(element[element < size], minlength=size)  # the first occurrence has the token's number
    symbol = np.cumsum(rows_with > 1) - 1
    symbol += len(SURROGATES) * (symbol >= SURROGATES.start)
    in_text = rows_with[token] > 1
    text_length = np.bincount(row[in_text], minlength=len(length))
    return PackedRows(
        np.arange(len(length)), length, single, _signatures(start, elements, len(rarity)), start, elements,
        starts_of(text_length), symbol[token[in_text]].astype("<u4"), bool(symbol[-1] >= CODES),
    )  # fmt: skip


def needed(m: Array, n: Array, threshold: float) -> Array:
    """The smallest common length with F above the threshold (above m or n if there is none): int64."""
    # 2 L / (m + n) grows much more than its rounding error from one L to the next, so few values are tried.
    common = np.maximum(np.floor(threshold * (m + n) / 2) - 1, 1)
    for _ in range(3):
        common = np.where(f_measure(common, m, n) > threshold, common, common + 1)
    return common.astype(np.int64)


def f_measure(common: Array, m: Array, n: Array) -> Array:
    """F as in rouge_score; the order of operations decides whether an exact 7/10 is above 0.7."""
    precision, recall = common / n, common / m
    return 2 * precision * recall / (precision + recall)


def _elements(row: Array, token: Array, size: int) -> Array:
    """A number for each (token, k-th occurrence in its row), in the order of (row, token).

    For the first occurrence the token itself, for the others numbers from `size` on.
    """
    key = row * size + token
    key.sort()
    place = np.arange(len(key))
    is_first = np.ones(len(key), bool)
    is_first[1:] = key[1:] != key[:-1]
    first = np.maximum.accumulate(np.where(is_first, place, 0))
    key %= size
    later = np.flatnonzero(~is_first)
    occurrences = key[later] * (len(key) + 1) + (later - first[later])
    _, which = np.unique(occurrences, return_inverse=True)
    key[later] = size + which
    return key


def _signatures(start: Array, elements: Array, count: int) -> Array:
    """Signature of each row: one bit each for the 64 most frequent elements; the others share them in turn."""
    bit = np.left_shift(np.uint64(1), ((count - 1 - elements.astype(np.int64)) % 64).astype(np.uint64))
    masks = np.zeros(len(start) - 1, np.uint64)
    some = np.flatnonzero(start[1:] > start[:-1])  # reduceat has no empty groups
    if some.size:
        masks[some] = np.bitwise_or.reduceat(bit, start[some])
    return masks
