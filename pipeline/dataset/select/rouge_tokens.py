"""What ROUGE-L works on: texts as tokens, the token lists of many rows as arrays, and its F.

`tokens` is rouge_score's default tokenizer for English. It keeps nothing but a-z and 0-9, so that every Korean text
would be an empty list; other languages are read by a wider rule, which gives the same for ASCII text.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

WORD = re.compile(r"[a-z0-9]+")
# Scripts without spaces between words, or whose words carry particles: a token for each character.
HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7ff"
KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CHARACTER = HANGUL + KANA + HAN
WORD_OR_CHARACTER = re.compile(rf"[a-z0-9]+|[{CHARACTER}]|[^\W_a-z0-9{CHARACTER}]+")

SURROGATES = range(0xD800, 0xE000)
CODES = 0x110000  # a string has no characters beyond


def tokens(text: str, language: str) -> list[str]:
    """The units that ROUGE-L counts.

    For `en`: rouge_score's default tokenizer without stemming, letter by letter the same, so that what it drops
    (accents, other scripts) is dropped here too.
    For every other language: the same words of a-z and 0-9, a token for each Hangul syllable, Han or kana character,
    and the words of other alphabets. Syllables, because particles and endings stick to Korean words: "날씨를" and
    "날씨가" are different words, but share two of three syllables.
    """
    if language == "en":
        return WORD.findall(text.lower())
    return WORD_OR_CHARACTER.findall(unicodedata.normalize("NFC", text.lower()))


@dataclass(frozen=True)
class Packed:
    """Token lists of n rows as arrays; small to send to another process.

    A row's elements are its (token, k-th occurrence) pairs, so that the overlap of two rows as multisets is the
    overlap of their elements as sets. Elements are numbered from the rarest to the commonest; those that no other
    row has are only counted, and tokens that no other row has are left out of `symbols`: they match nothing.
    """

    number: Array
    """[n] int64, ascending: the place of each row among all of them."""
    length: Array
    """[n] int64: tokens in each row, all of them."""
    single: Array
    """[n] int64: elements that no other row has."""
    signature: Array
    """[n] uint64: one bit for each element (several share a bit)."""
    start: Array
    """[n + 1] int64: row i owns elements[start[i] : start[i + 1]]."""
    elements: Array
    """int32, ascending within a row."""
    text_start: Array
    """[n + 1] int64: row i owns symbols[text_start[i] : text_start[i + 1]]."""
    symbols: Array
    """uint32, the tokens of each row in their order, as code points that are no surrogates."""
    wide: bool
    """There are more symbols than code points."""

    def take(self, chosen: Array) -> Packed:
        """The rows at these places (int64, ascending)."""
        start, elements = _take(self.start, self.elements, chosen)
        text_start, symbols = _take(self.text_start, self.symbols, chosen)
        return Packed(
            self.number[chosen], self.length[chosen], self.single[chosen], self.signature[chosen],
            start, elements, text_start, symbols, self.wide,
        )  # fmt: skip

    def texts(self, chosen: Array) -> list[Sequence[int | str]]:
        """The symbols of these rows, each row a string of one character a token: what rapidfuzz is fastest on."""
        bounds = zip(self.text_start[chosen].tolist(), self.text_start[chosen + 1].tolist(), strict=True)
        if self.wide:
            return [self.symbols[first:last].tolist() for first, last in bounds]
        return [self.symbols[first:last].tobytes().decode("utf-32-le") for first, last in bounds]


def pack(rows: Iterable[Sequence[str]]) -> Packed:
    """All rows that will be compared with each other, as arrays."""
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
    start = _starts(length - single)
    del ordered
    seen_by = np.bincount(element[element < size], minlength=size)  # the first occurrence of a token has its own number
    symbol = np.cumsum(seen_by > 1) - 1
    symbol += len(SURROGATES) * (symbol >= SURROGATES.start)
    kept = seen_by[token] > 1
    text_length = np.bincount(row[kept], minlength=len(length))
    return Packed(
        np.arange(len(length)), length, single, _signatures(start, elements, len(rarity)), start, elements,
        _starts(text_length), symbol[token[kept]].astype("<u4"), bool(symbol[-1] >= CODES),
    )  # fmt: skip


def needed(m: Array, n: Array, threshold: float) -> Array:
    """The least common length at which F is above the threshold (more than m or n when it cannot be): int64."""
    # 2 L / (m + n) grows by far more than its rounding from one L to the next, so only values near equality are tried.
    common = np.maximum(np.floor(threshold * (m + n) / 2) - 1, 1)
    for _ in range(3):
        common = np.where(f_measure(common, m, n) > threshold, common, common + 1)
    return common.astype(np.int64)


def f_measure(common: Array, m: Array, n: Array) -> Array:
    """F as rouge_score forms it; the order of operations decides on which side of 0.7 a true 7/10 falls."""
    precision, recall = common / n, common / m
    return 2 * precision * recall / (precision + recall)


def ranges(start: Array, count: Array) -> Array:
    """start[0], start[0] + 1, ... (count[0] numbers), start[1], ...: int64."""
    before = np.cumsum(count) - count
    return np.repeat(start - before, count) + np.arange(int(count.sum()))


def _elements(row: Array, token: Array, size: int) -> Array:
    """A number for each (token, k-th occurrence in its row): the token's own for the first, further ones for the rest.

    In the order of (row, token), not of the text.
    """
    key = row * size + token
    key.sort()
    place = np.arange(len(key))
    fresh = np.ones(len(key), bool)
    fresh[1:] = key[1:] != key[:-1]
    first = np.maximum.accumulate(np.where(fresh, place, 0))
    key %= size
    again = np.flatnonzero(~fresh)
    repeats = key[again] * (len(key) + 1) + (again - first[again])
    _, which = np.unique(repeats, return_inverse=True)
    key[again] = size + which
    return key


def _signatures(start: Array, elements: Array, count: int) -> Array:
    """The 64 commonest elements have a bit each, the rest go round."""
    bit = np.left_shift(np.uint64(1), ((count - 1 - elements.astype(np.int64)) % 64).astype(np.uint64))
    found = np.zeros(len(start) - 1, np.uint64)
    some = np.flatnonzero(start[1:] > start[:-1])  # reduceat has no empty groups
    if some.size:
        found[some] = np.bitwise_or.reduceat(bit, start[some])
    return found


def _starts(count: Array) -> Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(count, dtype=np.int64)])


def _take(start: Array, values: Array, chosen: Array) -> tuple[Array, Array]:
    count = start[chosen + 1] - start[chosen]
    return _starts(count), values[ranges(start[chosen], count)]
