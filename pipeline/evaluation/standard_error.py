"""Means and how sure they are. No torch: the front door asks for win rates without it."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
