"""Loss on rows that were not learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.model.load import device
from pipeline.model.loss import row_losses
from pipeline.progress import bar
from pipeline.prompt.batch import micro_rows, pad
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens

TOKENS = {"cpu": 2048, "cuda": 16384}  # that go through the model at once, when loss is measured


def tokens_at_once() -> int:
    """On this machine."""
    return TOKENS.get(device().type, TOKENS["cpu"])


def held_out_loss(
    model: Any, tokens: Tokens, rows: Sequence[int], micro_tokens: int, what: str = "held-out loss"
) -> float:
    """Mean of -log p over all labelled tokens of the rows, in nats; NaN when there are none."""
    sums, counts = row_sums(model, tokens, rows, micro_tokens, what)
    return sum(sums) / sum(counts) if any(counts) else math.nan


@torch.inference_mode()
def row_sums(
    model: Any, tokens: Tokens, rows: Sequence[int], micro_tokens: int, what: str
) -> tuple[list[float], list[int]]:
    """Of each row the sum of -log p over its labelled tokens, in nats, and how many those are."""
    was_training = model.training
    model.eval()
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with bar(total=len(rows), what=what) as progress:
        for group in micro_rows([int(tokens.lengths[i]) for i in rows], micro_tokens):
            chosen = [tokens.row(rows[i]) for i in group]
            for i, (_, labels), value in zip(group, chosen, row_losses(model, pad(chosen)).tolist(), strict=True):
                sums[i], counts[i] = value, int((labels[1:] != IGNORE).sum())
            progress.update(len(group))
    model.train(was_training)
    return sums, counts
