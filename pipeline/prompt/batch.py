"""Rows of tokens as padded arrays: the plain path. Padding is known by length, never by id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes through the model at once.

    ids, labels: int64, shape (rows, longest row), padded on the right with id 0 and IGNORE. Under causal attention no
    token sees what stands to its right, so right padding needs no mask.
    """

    ids: np.ndarray
    labels: np.ndarray

    @property
    def learnt(self) -> int:
        """Positions that carry loss."""
        return int((self.labels[:, 1:] != IGNORE).sum())


def micro_rows(lengths: Sequence[int], micro_tokens: int) -> list[list[int]]:
    """Splits rows into groups of similar length, each at most `micro_tokens` with its padding (or one row).

    Longest first, so that memory runs out at the start or never.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    for i in order:
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= micro_tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def batches(tokens: Tokens, rows: Sequence[int], micro_tokens: int) -> Iterable[Batch]:
    """The given rows as padded micro-batches."""
    for group in micro_rows([int(tokens.lengths[i]) for i in rows], micro_tokens):
        yield pad([tokens.row(rows[i]) for i in group])


def pad(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Stacks (ids, labels) pairs."""
    width = max(len(ids) for ids, _ in rows)
    ids = np.zeros((len(rows), width), np.int64)
    labels = np.full((len(rows), width), IGNORE, np.int64)
    for n, (row_ids, row_labels) in enumerate(rows):
        ids[n, : len(row_ids)] = row_ids
        labels[n, : len(row_labels)] = row_labels
    return Batch(ids, labels)
