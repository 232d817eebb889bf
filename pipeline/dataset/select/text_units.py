"""A text as a sequence of units, and n-grams of them, all as 64-bit hashes.

    "The heart-beat, 심장"  -- units ---> the heart beat 심 장    words; single letters in scripts such as Hangul
                            -- hashes --> [5] uint64
                            -- ngrams --> [3] uint64             n = 3: the heart beat, heart beat 심, beat 심 장

Duplicates and contamination compare these, so that letter case, punctuation, Unicode form, line breaks and, in Korean,
spacing make no difference.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# One letter is one unit in Hangul, kana, Han, Thai, Lao, Burmese and Khmer: spaces are missing or optional.
LETTERS = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
UNIT = re.compile(f"[{LETTERS}]|[^\\W_{LETTERS}]+")
SINGLE = re.compile(f"[{LETTERS}]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring numbers
_SHIFT = np.uint64(29)


def normalise(text: str) -> str:
    """NFC, no letter case, single spaces: texts that are equal in this form count as exact duplicates."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.casefold().split())


def units(text: str) -> list[str]:
    """Words, and single letters of scripts in `LETTERS`; no case, no punctuation. NFKC, so that ﬁ and Ａ are letters.

    A text of punctuation alone (`+-*/`) gives that, so that it is not equal to every other such text.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = text.casefold()
    return UNIT.findall(folded) or folded.split()


def fingerprint(text: str) -> int:
    """64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_hash = lru_cache(maxsize=1 << 18)(fingerprint)  # for units, most of which repeat; whole texts would fill the memory


def hashes(units: Sequence[str]) -> Hashes:
    """64-bit hashes of units, the same in every process. Shape (units,)."""
    return np.fromiter(map(_hash, units), dtype=np.uint64, count=len(units))


def ngrams(values: Hashes, length: int) -> Hashes:
    """Hashes of all n-grams of `length` units. Shape (len(values) - length + 1,); one n-gram of fewer units."""
    length = min(length, len(values))
    if length == 0:
        return values[:0]
    count = len(values) - length + 1
    combined = values[:count].copy()
    for offset in range(1, length):
        combined = mix(combined) + values[offset : offset + count]
    return mix(combined)


def mix(values: Hashes) -> Hashes:
    """A bijection of 64-bit numbers that makes every bit depend on those below it."""
    mixed = values * _FACTOR
    return mixed ^ (mixed >> _SHIFT)


def mostly_letters(units: Sequence[str]) -> bool:
    """Whether single letters make up at least half of the units: Korean, Chinese, Japanese, Thai."""
    return 2 * sum(len(unit) == 1 and SINGLE.match(unit) is not None for unit in units) >= max(len(units), 1)
