"""Ragged arrays: rows of different lengths in one flat array. Row i is flat[starts[i]:starts[i + 1]].

rows    [a b c] [] [d e]
flat    a b c d e              shape (5,)
starts  0 3 3 5                shape (rows + 1,)
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def starts_of(lengths: Array) -> Array:
    """[n] lengths to [n + 1] int64 starts."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def ranges(starts: Array, lengths: Array) -> Array:
    """starts[0], starts[0] + 1, ... (lengths[0] numbers), starts[1], ...: int64. Indices of many slices at once."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def take_rows(starts: Array, flat: Array, chosen: Array) -> tuple[Array, Array]:
    """Starts and flat array of the chosen rows (int64)."""
    lengths = starts[chosen + 1] - starts[chosen]
    return starts_of(lengths), flat[ranges(starts[chosen], lengths)]


def first_of_groups(values: Array) -> Array:
    """Where each group of equal neighbours begins: int64."""
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
