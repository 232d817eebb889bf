"""Cross-entropy over the labelled tokens of a batch."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.prompt.batch import Batch
from pipeline.prompt.encode import IGNORE


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Sum, over the labelled positions of `batch`, of -log p(token | tokens before); a scalar in float32."""
    return label_losses(model, batch)[0].sum()


def row_losses(model: Any, batch: Batch) -> torch.Tensor:
    """`loss_sum` of each row by itself, float32, shape (rows,)."""
    found, rows = label_losses(model, batch)
    return found.new_zeros(len(batch.ids)).index_add(0, rows, found)


def label_losses(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p(token | tokens before) of every labelled position, float32, and its row, both of shape (positions,).

    Only positions that learn go through the output head, which is most of a small model's arithmetic: a hook in front
    of the head picks them, so the model's own forward stays as it is. Hidden states are (rows, length, hidden) before
    the hook and (positions, hidden) behind it, logits (positions, vocabulary). Virtual tokens in front are left out.
    """
    whole = getattr(model, "module", model)  # what a data-parallel wrapper holds
    device = next(whole.parameters()).device
    ids = torch.from_numpy(batch.ids).to(device)
    targets = torch.full_like(ids, IGNORE)
    targets[:, :-1] = torch.from_numpy(batch.labels[:, 1:])
    learns = targets != IGNORE
    if not batch.learnt:  # keep the graph, so that every rank calls backward alike; IGNORE makes it a zero
        learns[0, 0] = True
    own = slice(-ids.shape[1], None)
    hook = whole.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][:, own][learns],))
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    wanted = targets[learns]
    return losses(logits, wanted.clamp(min=0)) * (wanted != IGNORE), learns.nonzero()[:, 0]


def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p of each target, in float32. logits (positions, vocabulary), targets int64 (positions,).

    Not `F.cross_entropy`: on CPUs its float32 sum over 49,152 words is 1e-5 off at each token, always to one side.
    """
    wide = logits.float()
    return torch.logsumexp(wide, dim=1) - wide.gather(1, targets[:, None])[:, 0]
