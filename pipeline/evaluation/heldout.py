"""Loss on rows that were not learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.model.loss import loss_sum, row_losses
from pipeline.progress import bar
from pipeline.prompt.batch import batches, micro_rows, pad
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens


@torch.inference_mode()
def held_out_loss(
    model: Any, tokens: Tokens, rows: Sequence[int], micro_tokens: int, what: str = "held-out loss"
) -> float:
    """Mean of -log p over all labelled tokens of the rows, in nats; NaN when there are none."""
    was_training = model.training
    model.eval()
    total, learnt = 0.0, 0
    with bar(total=len(rows), what=what) as progress:
        for batch in batches(tokens, rows, micro_tokens):
            total += float(loss_sum(model, batch))
            learnt += batch.learnt
            progress.update(len(batch.ids))
    model.train(was_training)
    return total / learnt if learnt else math.nan


@torch.inference_mode()
def row_sums(
    model: Any, tokens: Tokens, rows: Sequence[int], micro_tokens: int, what: str
) -> tuple[list[float], list[int]]:
    """Of each row the sum of -log p over its labelled tokens, in nats, and how many those are."""
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with bar(total=len(rows), what=what) as progress:
        for group in micro_rows([int(tokens.lengths[i]) for i in rows], micro_tokens):
            chosen = [tokens.row(rows[i]) for i in group]
            for i, (_, labels), value in zip(group, chosen, row_losses(model, pad(chosen)).tolist(), strict=True):
                sums[i], counts[i] = value, int((labels[1:] != IGNORE).sum())
            progress.update(len(group))
    return sums, counts
