"""Scores of answers: ROUGE-L, and means with their standard errors. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from pipeline.dataset.select.rouge_tokens import tokens


def ratio(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """sum(sums) / sum(counts) and its standard error with windows as blocks; NaN for a single one.

    Tokens of one window are not independent, windows are: the ratio estimator of cluster sampling (Cochran, Sampling
    Techniques, 3rd ed. 1977, section 2.11), without its correction for finite populations:
    error^2 = m / (m - 1) * sum((sum_w - count_w * mean)^2) / sum(counts)^2, m windows.
    """
    total, m = sum(counts), len(counts)
    mean = sum(sums) / total
    if m < 2:
        return mean, math.nan
    spread = sum((s - n * mean) ** 2 for s, n in zip(sums, counts, strict=True))
    return mean, math.sqrt(m / (m - 1) * spread) / total


def shown(value: float, error: float | None, form: str) -> str:
    """`0.123 ± 0.004` in a format such as `+.3f`; the value alone where no error is known, and never `-0.000`.

    form: as Python writes it, a sign first where one is to be shown.
    """
    sign, form = ("+", form[1:]) if form.startswith("+") else ("", form)
    text = f"{value:{sign}z{form}}"
    return text if error is None or math.isnan(error) else f"{text} ± {error:{form}}"


def mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, each value a block of `ratio`; NaN where there are too few values for one."""
    return ratio(values, [1] * len(values)) if values else (math.nan, math.nan)


def rouge_l(expected: str, answer: str, language: str) -> float:
    """ROUGE-L of one answer, 0 to 1: the longest common subsequence of tokens (Lin 2004, W04-1013, section 3).

    L = its length, P = L / tokens of the answer, R = L / tokens of the reference, result = 2 P R / (P + R). Tokens are
    those of `pipeline.dataset.select.rouge_tokens` (for `en` rouge_score's own).
    """
    reference, own = tokens(expected, language), tokens(answer, language)
    common = LCSseq.similarity(reference, own)
    if not common:
        return 0.0
    precision, recall = common / len(own), common / len(reference)
    return 2 * precision * recall / (precision + recall)
