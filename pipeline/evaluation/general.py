"""What a model loses on general text that no task is about: the measure of forgetting.

    loss       = mean of -log p(token | tokens before) over all scored tokens of the text, in nats
    forgetting = loss of the tuned model - loss of the base, on the same tokens

That is the definition of Hugging Face peft's method comparison (`method_comparison/MetaMathQA/run.py`, `forgetting`:
Wikipedia there, rows cut at 768 tokens). Its `calculate_mean_per_token_loss`, as read at commit 026d1e0, compares the
logits of a position with the token at that same position; here each token is scored by the position before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.config.schema import Config, Eval
from pipeline.evaluation.standard_error import ratio
from pipeline.model.load import context_length
from pipeline.model.loss import row_losses
from pipeline.model.memory import each_group
from pipeline.prompt.batch import pad
from pipeline.prompt.encode import Encoder
from pipeline.prompt.passages import WINDOW, Window, path_of, read, windows
from pipeline.run.progress import bar

LOOK = 4  # windows while training


def seen_by(model: Any, config: Config) -> int:
    """How long a window may be. Virtual tokens take their share, of the base's windows too: both see the same."""
    return context_length(model.config, config.adapter) or WINDOW


def general_windows(settings: Eval, encoder: Encoder, longest: int, most: int = 0) -> list[Window]:
    """The windows of `eval.general`.

    Args:
        longest: tokens of a window, where the model sees fewer than `WINDOW`. most: fewer than the final table has.

    Raises:
        UserError: the file cannot be read.
    """
    most = min(most or settings.general_windows, settings.general_windows)
    return windows(read(path_of(settings.general)), encoder, most, min(WINDOW, longest))


@torch.inference_mode()
def general_loss(model: Any, chosen: Sequence[Window], what: str = "general text") -> dict[str, Any]:
    """What the model loses on the windows.

    Returns:
        windows, tokens: how many were scored. loss: nats a token; standard_error: of it, over windows. perplexity:
        exp(loss). by_kind: loss of each kind of text. sums, counts: nats and tokens of every window, for `forgetting`.
        Nothing when there are no windows.
    """
    if not chosen:
        return {}
    was_training = model.training
    model.eval()
    sums = [0.0] * len(chosen)

    def measured(group: list[int]) -> list[float]:
        found: list[float] = row_losses(model, pad([(chosen[i].ids, chosen[i].ids) for i in group])).tolist()
        return found

    try:
        with bar(total=len(chosen), what=what, unit="window") as progress:
            for group, found in each_group(model, [len(w.ids) for w in chosen], measured):
                for i, value in zip(group, found, strict=True):
                    sums[i] = value
                progress.update(len(group))
    finally:
        model.train(was_training)
    counts = [w.scored for w in chosen]
    loss, error = ratio(sums, counts)
    kinds = sorted({w.kind for w in chosen} - {""})
    chosen_of = {kind: [i for i, w in enumerate(chosen) if w.kind == kind] for kind in kinds}
    return {
        "windows": len(chosen),
        "tokens": sum(counts),
        "loss": loss,
        "standard_error": error,
        "perplexity": math.exp(min(loss, 700)),
        "by_kind": {kind: ratio([sums[i] for i in at], [counts[i] for i in at])[0] for kind, at in chosen_of.items()},
        "sums": sums,
        "counts": counts,
    }


def forgetting(base: dict[str, Any], tuned: dict[str, Any]) -> tuple[float, float]:
    """Change of the loss on general text, tuned - base, in nats a token, and its standard error.

    Both come from `general_loss` on the same windows. The error is that of the windows' differences: what makes a
    window hard for both models falls out.

    Raises:
        ValueError: the two were measured on other windows.
    """
    if base["counts"] != tuned["counts"]:
        raise ValueError("base and tuned model were measured on other windows")
    return ratio([t - b for b, t in zip(base["sums"], tuned["sums"], strict=True)], base["counts"])
