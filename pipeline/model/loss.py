"""Cross-entropy over the labelled tokens of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from pipeline.prompt.batch import Batch
from pipeline.prompt.encode import IGNORE


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Sum, over the labelled positions of `batch`, of -log p(token | tokens before); a scalar in float32.

    Only positions that learn go through the output head, which is most of a small model's arithmetic: a hook in front
    of the head picks them, so the model's own forward stays as it is. Hidden states are (rows, length, hidden) before
    the hook and (positions, hidden) behind it, logits (positions, vocabulary).
    """
    whole = getattr(model, "module", model)  # what a data-parallel wrapper holds
    device = next(whole.parameters()).device
    ids = torch.from_numpy(batch.ids).to(device)
    targets = torch.full_like(ids, IGNORE)
    targets[:, :-1] = torch.from_numpy(batch.labels[:, 1:])
    learns = targets != IGNORE
    if not batch.learnt:  # keep the graph, so that every rank calls backward alike; IGNORE makes it a zero
        learns[0, 0] = True
    hook = whole.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][learns],))
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return F.cross_entropy(logits.float(), targets[learns], ignore_index=IGNORE, reduction="sum")
