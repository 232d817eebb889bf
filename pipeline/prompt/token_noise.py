"""Noise on the embeddings of training rows (NEFTune, Jain et al. 2023, arXiv 2310.05914): where each number comes from.

    e_tj + alpha / sqrt(tokens of the row * hidden size) * u_tj,     u uniform in (-1, 1)

u is a pure function of the seed, the step, the row and the place in it: so a resumed run repeats it, with packs of any
size and on every device. transformers' Trainer has the same scale for a row alone; in a padded micro-batch it counts
the tokens of the longest row, and in a flattened one those of all rows together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import Train


@dataclass(frozen=True, slots=True)
class TokenNoise:
    """What the noise of tokens is made from; both arrays have one shape, that of the tokens.

    keys: int64, any bits; decide u. scales: float32, alpha / sqrt(tokens of the row); 0 for padding.
    """

    keys: NDArray[np.int64]
    scales: NDArray[np.float32]


@dataclass(frozen=True)
class RowNoise:
    """The noise of a run. alpha: `train.neftune`."""

    alpha: float
    seed: int

    @classmethod
    def of(cls, train: Train) -> RowNoise | None:
        """None without noise."""
        return cls(train.neftune, train.seed) if train.neftune else None

    def of_pack(self, rows: Sequence[int], lengths: Sequence[int], step: int, size: int) -> TokenNoise:
        """Of rows one behind the other.

        Args:
            rows: their numbers. lengths: their tokens. size: tokens with padding at the end.
        """
        parts = [self._of_row(row, length, step) for row, length in zip(rows, lengths, strict=True)]
        keys, scales = np.zeros(size, np.int64), np.zeros(size, np.float32)
        end = sum(lengths)
        keys[:end] = np.concatenate([part.keys for part in parts])
        scales[:end] = np.concatenate([part.scales for part in parts])
        return TokenNoise(keys, scales)

    def of_padded(self, rows: Sequence[int], lengths: Sequence[int], step: int) -> TokenNoise:
        """Of rows one below the other, (rows, longest row). Arguments as in `of_pack`."""
        each = [self.of_pack([row], [length], step, max(lengths)) for row, length in zip(rows, lengths, strict=True)]
        return TokenNoise(np.stack([one.keys for one in each]), np.stack([one.scales for one in each]))

    def _of_row(self, row: int, length: int, step: int) -> TokenNoise:
        key = np.zeros(1, np.uint64)
        for number in (self.seed, step, row):
            key = _mixed(key + np.uint64(number))
        keys = _mixed((key + np.arange(length, dtype=np.uint64)).astype(np.uint64)).view(np.int64)
        return TokenNoise(keys, np.full(length, self.alpha / math.sqrt(length), np.float32))


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's next number after each state (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
