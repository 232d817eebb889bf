"""Micro-batches of padded rows, for the plain path.

    ids      7 8 9 4 5      labels   . . 9 4 5      labelled = 3 + 2
             7 8 6 0 0               . 8 6 . .      . is IGNORE

Padding is recognised by the length of a row, never by its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.prompt.encode import IGNORE
from pipeline.prompt.token_noise import RowNoise, TokenNoise
from pipeline.prompt.tokens import Tokens

# Cost of one more pass through the model, as a share of the tokens that fit at once: 50 of 1,024 on two CPU cores,
# about 1,000 of 18,000 for a 7B model on a GPU.
PASS = 1 / 20


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """A micro-batch of rows.

    ids, labels: int64, shape (rows, longest row), padded on the right with id 0 and IGNORE. Causal attention looks to
    the left only, so padding on the right needs no mask. noise: on the embeddings, of the same shape; None without.
    """

    ids: np.ndarray
    labels: np.ndarray
    noise: TokenNoise | None = None

    @property
    def has_targets(self) -> bool:
        """Whether a pass computes anything: one without labels does too."""
        return True

    @property
    def labelled(self) -> int:
        """Number of labelled tokens; the first token of a row has no prediction, so it does not count."""
        return int((self.labels[:, 1:] != IGNORE).sum())


def micro_rows(lengths: Sequence[int], micro_tokens: int) -> list[list[int]]:
    """Splits rows into groups of similar length, each at most `micro_tokens` with its padding (or one row).

    The rows are sorted by length, longest first, so that memory runs out at the start or never. The cuts between groups
    minimise the sum over groups of (PASS * micro_tokens + rows * longest row), by dynamic programming.

    Returns:
        Indices into `lengths`, group by group.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    one_pass = int(PASS * micro_tokens)
    cost, cut = [0], [0]  # of the first n rows: the lowest cost, and the start of its last group
    for end in range(1, len(order) + 1):
        best, begin = cost[end - 1] + one_pass + lengths[order[end - 1]], end - 1
        for start in range(end - 2, -1, -1):
            padded = (end - start) * lengths[order[start]]
            if padded > micro_tokens:
                break
            if cost[start] + one_pass + padded < best:
                best, begin = cost[start] + one_pass + padded, start
        cost.append(best)
        cut.append(begin)
    groups, end = [], len(order)
    while end:
        groups.append(order[cut[end] : end])
        end = cut[end]
    return groups[::-1]


def batches(
    tokens: Tokens, rows: Sequence[int], micro_tokens: int, noise: RowNoise | None = None, step: int = 0
) -> Iterable[PaddedBatch]:
    """The given rows as padded micro-batches, with their noise in a step of a run."""
    lengths = [int(tokens.lengths[i]) for i in rows]
    for group in micro_rows(lengths, micro_tokens):
        batch = pad([tokens.row(rows[i]) for i in group])
        if noise:
            batch = replace(batch, noise=noise.of_padded([rows[i] for i in group], [lengths[i] for i in group], step))
        yield batch


def pad(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> PaddedBatch:
    """Stacks (ids, labels) of rows, each of shape (length,)."""
    width = max(len(ids) for ids, _ in rows)
    ids = np.zeros((len(rows), width), np.int64)
    labels = np.full((len(rows), width), IGNORE, np.int64)
    for n, (row_ids, row_labels) in enumerate(rows):
        ids[n, : len(row_ids)] = row_ids
        labels[n, : len(row_labels)] = row_labels
    return PaddedBatch(ids, labels)
