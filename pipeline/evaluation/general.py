"""Loss of a model on general text, which no task is about: the measure of forgetting.

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

from pipeline.config.schema import Eval
from pipeline.evaluation.measure import row_sums
from pipeline.evaluation.scores import ratio
from pipeline.evaluation.shots import EncodedRows
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.general_text import WINDOW, Window, cut_windows, path_of, read_passages

LOOK = 4  # windows of a periodic evaluation


def general_windows(settings: Eval, encoder: AnyEncoder, longest: int, most: int = 0) -> list[Window]:
    """The windows of `eval.general`.

    Args:
        longest: tokens of a window at most. most: windows at most, 0 = `eval.general_windows`.

    Raises:
        UserError: the file cannot be read.
    """
    most = min(most or settings.general_windows, settings.general_windows)
    return cut_windows(read_passages(path_of(settings.general)), encoder, most, min(WINDOW, longest))


def general_loss(model: Any, chosen: Sequence[Window], what: str = "general text") -> dict[str, Any]:
    """Loss of the model on the windows.

    Returns:
        windows, tokens: number of windows and of scored tokens. loss: nats a token; standard_error: of it, over
        windows. perplexity: exp(loss). by_kind: loss by kind of text. sums, counts: nats and tokens of every window,
        for `forgetting`. Empty where there are no windows.
    """
    if not chosen:
        return {}
    sums, _ = row_sums(model, EncodedRows([(w.ids, w.ids) for w in chosen]), range(len(chosen)), what, "window")
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

    Both come from `general_loss` on the same windows. The error is that of the differences by window, so what makes
    a window hard for both models cancels out.

    Raises:
        ValueError: the two were measured on other windows.
    """
    if base["counts"] != tuned["counts"]:
        raise ValueError("base and tuned model were measured on other windows")
    return ratio([t - b for b, t in zip(base["sums"], tuned["sums"], strict=True)], base["counts"])
