"""Loss on rows that were not learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.model.loss import loss_sum
from pipeline.progress import bar
from pipeline.prompt.batch import batches
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
