"""Win rates with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.evaluation.scores import mean

Z = 1.959963984540054  # of a 95 % interval


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval for a share out of n (E. B. Wilson, JASA 22, 1927): the normal test on one win rate a
    question, inverted.

    Unlike a bootstrap or share ± z * error, it does not shrink to a point at 10 of 10. With ties as half a win it is
    wider than necessary, since a tie varies less than a win or a loss.
    """
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def win_rate(winners: Sequence[str]) -> dict[str, Any]:
    """Of `tuned`, `tie` and `base`: how many of each, tuned's win rate (ties half), its interval, and the standard
    error of the mean, as AlpacaEval gives it. Where there are none, the numbers are None."""
    n = len(winners)
    counts = {name: winners.count(name) for name in ("tuned", "tie", "base")}
    if not n:
        return {"questions": 0, **counts, "win_rate": None, "interval": None, "standard_error": None}
    scores = [{"tuned": 1.0, "tie": 0.5, "base": 0.0}[winner] for winner in winners]
    rate, error = mean(scores)
    return {
        "questions": n, **counts, "win_rate": rate, "interval": list(wilson(rate, n)),
        "standard_error": None if math.isnan(error) else error,
    }  # fmt: skip


def table(rates: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, ...]]:
    """Header and one row for each (name, win rate), as text."""
    rows: list[tuple[str, ...]] = [("", "questions", "tuned better", "tie", "base better", "tuned wins", "95 %")]
    for name, rate in rates:
        counts = [str(rate[column]) for column in ("questions", "tuned", "tie", "base")]
        share = "" if rate["win_rate"] is None else f"{rate['win_rate']:.1%}"
        interval = "" if rate["interval"] is None else " to ".join(f"{end:.1%}" for end in rate["interval"])
        rows.append((name, *counts, share, interval))
    return rows
