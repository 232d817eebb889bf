"""How alike the kept rows are: of each the highest ROUGE-L with an earlier one or a seed, and the most similar pairs.

The filter compares each draft while rows are made; this looks at what was kept, for the report, also where the filter
is off. ROUGE-L counts the longest common subsequence of tokens (Lin 2004), F = 2 L / (m + n), as stanford_alpaca's
filter does.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from pipeline.dataset.select.rouge_tokens import SURROGATES, tokens

MOST = 2000  # rows that are compared with all earlier ones; of more, so many drawn evenly
BLOCK = 200  # rows that are compared at once
PAIRS = 20


@dataclass(frozen=True)
class Pair:
    """f: ROUGE-L. row: number of the later row, from 0; other: of the earlier one, below 0 a seed: -1 is the first."""

    f: float
    row: int
    other: int


def nearest(rows: Sequence[str], seeds: Sequence[str], language: str) -> list[Pair]:
    """For each compared row the earlier row or seed that is most like it, in order.

    Args:
        rows: instructions that were kept. seeds: those of the seed tasks.
    """
    texts = _symbols([*seeds, *rows], language)
    lengths = np.array([len(text) for text in texts], np.int64)
    step = max(1, -(-len(rows) // MOST))
    chosen = np.arange(0, len(rows), step) + len(seeds)
    pairs: list[Pair] = []
    for begin in range(0, len(chosen), BLOCK):
        block = chosen[begin : begin + BLOCK]
        before = int(block[-1])
        if before == 0:
            continue
        common = cdist([texts[i] for i in block], texts[:before], scorer=LCSseq.similarity, dtype=np.int32)
        total = lengths[block][:, None] + lengths[None, :before]
        f = np.where(total > 0, 2 * common / np.maximum(total, 1), 0.0)
        f[np.arange(before)[None, :] >= block[:, None]] = -1.0  # later rows
        best = f.argmax(axis=1)
        for line, (row, other) in enumerate(zip(block.tolist(), best.tolist(), strict=True)):
            if f[line, other] >= 0:
                place = other - len(seeds) if other >= len(seeds) else -1 - other
                pairs.append(Pair(round(float(f[line, other]), 4), row - len(seeds), place))
    return pairs


def most_similar(pairs: Sequence[Pair], count: int = PAIRS) -> list[Pair]:
    """The most similar pairs, the highest first."""
    return heapq.nsmallest(count, pairs, key=lambda pair: (-pair.f, pair.row))


def _symbols(texts: Sequence[str], language: str) -> list[str]:
    """Each text as a string with one character for each token, which rapidfuzz compares fastest."""
    numbers: dict[str, int] = {}
    lines = [[numbers.setdefault(token, len(numbers)) for token in tokens(text, language)] for text in texts]
    shift = len(SURROGATES)
    most = 0x110000 - shift - 1  # rarer tokens of a very large vocabulary share the last character
    return ["".join(chr(n if n < SURROGATES.start else min(n, most) + shift) for n in line) for line in lines]
