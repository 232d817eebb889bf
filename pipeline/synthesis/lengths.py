"""Lengths of rows in characters: quantiles of each text, for the report."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from pipeline.synthesis.request import Draft

QUANTILES = (5, 25, 50, 75, 95)


def lengths(rows: Sequence[Draft]) -> dict[str, dict[str, int]]:
    """Quantiles and the longest of each text of the rows; empty texts, such as inputs, are not counted."""
    measured: dict[str, dict[str, int]] = {}
    for name in ("instruction", "input", "output"):
        sizes = [len(text) for row in rows if (text := getattr(row, name))]
        if sizes:
            measured[name] = {"rows": len(sizes), **_quantiles(sizes), "longest": max(sizes)}
    return measured


def _quantiles(sizes: Iterable[int]) -> dict[str, int]:
    """p5 ... p95, each a size that occurs."""
    ordered = sorted(sizes)
    if len(ordered) == 1:
        return {f"p{q}": ordered[0] for q in QUANTILES}
    cuts = statistics.quantiles(ordered, n=100, method="inclusive")
    return {f"p{q}": round(cuts[q - 1]) for q in QUANTILES}
