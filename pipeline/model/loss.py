"""Cross-entropy over the labelled tokens of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from pipeline.prompt.batch import Batch
from pipeline.prompt.encode import IGNORE


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Sum, over the labelled positions of `batch`, of -log p(token | tokens before); a scalar in float32.

    Only columns in which some row learns go through the head: with the prompt masked, most of them do not.
    """
    device = next(model.parameters()).device
    ids = torch.from_numpy(batch.ids).to(device)
    targets = torch.from_numpy(batch.labels[:, 1:]).to(device)
    columns = (targets != IGNORE).any(dim=0).nonzero().flatten()
    if not len(columns):  # nothing to learn here: keep the graph, so that every rank calls backward alike
        columns = torch.zeros(1, dtype=torch.long, device=device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits  # (rows, columns, vocabulary)
    targets = targets[:, columns]
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
