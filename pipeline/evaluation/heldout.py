"""Loss on rows that were not learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.model.loss import row_losses
from pipeline.model.memory import each_group
from pipeline.prompt.batch import pad
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens
from pipeline.run.progress import bar


def held_out_loss(model: Any, tokens: Tokens, rows: Sequence[int], what: str = "held-out loss") -> float:
    """Mean of -log p over all labelled tokens of the rows, in nats; NaN when there are none."""
    sums, counts = row_sums(model, tokens, rows, what)
    return sum(sums) / sum(counts) if any(counts) else math.nan


@torch.inference_mode()
def row_sums(model: Any, tokens: Tokens, rows: Sequence[int], what: str) -> tuple[list[float], list[int]]:
    """Of each row the sum of -log p over its labelled tokens, in nats, and how many those are."""
    was_training = model.training
    model.eval()
    sums, counts = [0.0] * len(rows), [0] * len(rows)

    def measured(group: list[int]) -> list[float]:
        found: list[float] = row_losses(model, pad([tokens.row(rows[i]) for i in group])).tolist()
        return found

    try:
        with bar(total=len(rows), what=what) as progress:
            for group, found in each_group(model, [int(tokens.lengths[i]) for i in rows], measured):
                for i, value in zip(group, found, strict=True):
                    sums[i], counts[i] = value, int((tokens.row(rows[i])[1][1:] != IGNORE).sum())
                progress.update(len(group))
    finally:
        model.train(was_training)
    return sums, counts
