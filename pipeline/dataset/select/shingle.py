"""A text as a sequence of units (words, or letters where scripts do not part words), and overlapping runs of them.

Duplicates and contamination compare texts through these, so that letter case, punctuation, Unicode form, line breaks
and, in Korean, spacing make no difference.
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

# One letter is one unit in Hangul, kana, Han, Thai, Lao, Burmese and Khmer: spaces are missing or a matter of taste.
LETTERS = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
UNIT = re.compile(f"[{LETTERS}]|[^\\W_{LETTERS}]+")
SINGLE = re.compile(f"[{LETTERS}]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads neighbouring numbers
_SHIFT = np.uint64(29)


def normalise(text: str) -> str:
    """NFC, no letter case, single spaces: two texts equal in this form are the same to a reader."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.casefold().split())


def units(text: str) -> list[str]:
    """Words, and single letters of scripts in `LETTERS`; no case, no punctuation. NFKC, so that ﬁ and Ａ are letters.

    A text made of signs alone (`+-*/`) gives those signs, so that it is not equal to every other such text.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = text.casefold()
    return UNIT.findall(folded) or folded.split()


def fingerprint(text: str) -> int:
    """64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_hash = lru_cache(maxsize=1 << 18)(fingerprint)  # for units, of which most come again; whole texts would fill memory


def hashes(found: Sequence[str]) -> Hashes:
    """64-bit hashes of units, the same in every process. Shape (units,)."""
    return np.fromiter(map(_hash, found), dtype=np.uint64, count=len(found))


def runs(values: Hashes, length: int) -> Hashes:
    """Hashes of all runs of `length` neighbours. Shape (len(values) - length + 1,); one run where there are fewer."""
    length = min(length, len(values))
    if length == 0:
        return values[:0]
    count = len(values) - length + 1
    found = values[:count].copy()
    for offset in range(1, length):
        found = mix(found) + values[offset : offset + count]
    return mix(found)


def mix(values: Hashes) -> Hashes:
    """A bijection of 64-bit numbers that makes every bit depend on those below it."""
    mixed = values * _FACTOR
    return mixed ^ (mixed >> _SHIFT)


def mostly_letters(found: Sequence[str]) -> bool:
    """Whether single letters make up at least half of the units: Korean, Chinese, Japanese, Thai."""
    return 2 * sum(len(unit) == 1 and SINGLE.match(unit) is not None for unit in found) >= max(len(found), 1)
