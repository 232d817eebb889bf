"""Cross-entropy over the labelled tokens of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import torch

from pipeline.kernels.embedding_noise import EmbeddingNoise
from pipeline.model.causal_lm import causal_lm_of
from pipeline.model.memory import LOGITS
from pipeline.prompt.batch import PaddedBatch
from pipeline.prompt.encode import IGNORE


def loss_sum(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """Sum, over the labelled positions of `batch`, of -log p(token | tokens before); a scalar in float32.

    Only labelled positions go through the output head, which is most of a small model's arithmetic: a hook before the
    head selects them, and the model's own forward is unchanged. Hidden states are (rows, length, hidden) before
    the hook and (positions, hidden) after it, logits (positions, vocabulary). Virtual tokens are left out.
    """
    whole = getattr(model, "module", model)  # inside a data-parallel wrapper
    ids, targets = _inputs(whole, batch)
    learns = targets != IGNORE
    if not batch.labelled:  # one position keeps the graph, so that all ranks call backward; IGNORE makes its loss 0
        learns[0, 0] = True
    own = slice(-ids.shape[1], None)
    hook = whole.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][:, own][learns],))
    try:
        with _noise(whole, batch, ids.device):
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    wanted = targets[learns]
    return (losses(logits, wanted.clamp(min=0)) * (wanted != IGNORE)).sum()


def _noise(model: Any, batch: PaddedBatch, device: torch.device) -> AbstractContextManager[None]:
    """Context in which the batch's noise, if it has any, is on the embeddings."""
    if batch.noise is None:
        return contextlib.nullcontext()
    keys, scales = (torch.from_numpy(values).to(device) for values in (batch.noise.keys, batch.noise.scales))
    return EmbeddingNoise(keys, scales).added_to(model.get_input_embeddings())


@torch.no_grad()
def row_losses(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """`loss_sum` of each row by itself, without gradients; float32, shape (rows,)."""
    with contextlib.closing(label_logits(model, batch)) as slices:
        parts = [(losses(logits, targets), rows) for logits, targets, rows in slices]
    whole = torch.zeros(len(batch.ids), device=next(model.parameters()).device)
    return whole.index_add(0, torch.cat([r for _, r in parts]), torch.cat([p for p, _ in parts])) if parts else whole


def label_logits(
    model: Any, batch: PaddedBatch
) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
    """For the labelled positions, at most `LOGITS` numbers at a time: logits (positions, vocabulary), labels
    (positions,) and row numbers (positions,). For passes without gradients.

    The blocks run once, with the first slice. For the other slices the model's forward is called with the decoder
    replaced by its stored output, so that whatever the model does to its logits (scales, caps) applies:

        first slice     ids ─> decoder ─> hidden ─ hook: slice 0 ─> head ─> scale, cap ─> logits
        other slices           stored output ───── hook: slice n ─> head ─> scale, cap ─> logits

    The model has hooks until the generator is closed, so close it when an error ends the loop early.
    """
    whole = causal_lm_of(model)
    decoder = whole.get_decoder() if hasattr(whole, "get_decoder") else whole.base_model
    head = whole.get_output_embeddings()
    ids, targets = _inputs(whole, batch)
    learns = targets != IGNORE
    wanted, rows = targets[learns], learns.nonzero()[:, 0]
    vocabulary = getattr(head, "out_features", None) or head.weight.shape[0]
    step = max(1, LOGITS // vocabulary) if decoder is not whole else max(1, len(wanted))
    stored: dict[str, Any] = {}
    at = slice(0, step)

    def pick(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        if "hidden" not in stored:
            stored["hidden"] = args[0][:, -ids.shape[1] :][learns]
        return (stored["hidden"][at],)

    own = decoder.__dict__.get("forward")
    hooks = [
        head.register_forward_pre_hook(pick),
        decoder.register_forward_hook(lambda *passed: stored.update(output=passed[2])),
    ]
    try:
        for start in range(0, len(wanted), step):
            at = slice(start, start + step)
            yield model(input_ids=ids, use_cache=False).logits, wanted[at], rows[at]
            decoder.forward = lambda *_, **__: stored["output"]
    finally:
        for hook in hooks:
            hook.remove()
        if own is not None:
            decoder.forward = own
        else:
            decoder.__dict__.pop("forward", None)


def _inputs(model: Any, batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids, and the label of the next position or IGNORE; both int64 (rows, length) on the model's device."""
    ids = torch.from_numpy(batch.ids).to(next(model.parameters()).device)
    targets = torch.full_like(ids, IGNORE)
    targets[:, :-1] = torch.from_numpy(batch.labels[:, 1:])
    return ids, targets


def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p of each target, in float32. logits (positions, vocabulary), targets int64 (positions,).

    Not `F.cross_entropy`: on CPUs its float32 sum over 49,152 words is off by 1e-5 at each token, with the same sign.
    """
    wide = logits.float()
    return torch.logsumexp(wide, dim=1) - wide.gather(1, targets[:, None])[:, 0]
