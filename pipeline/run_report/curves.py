"""The charts of a run: learning rate and speed over its steps, and base against tuned as dots on one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.pages.charts import DotRow, Series, add_lines, dots, thinned
from pipeline.pages.drawing import Drawing
from pipeline.training.metrics import points


def learning_rate(lines: Sequence[Mapping[str, Any]], width: float) -> Drawing:
    """The learning rate of every step."""
    series = [Series("learning rate", thinned(points(lines, "lr")), "accent")]
    return add_lines(Drawing("rate", width, 0, "Learning rate", "Learning rate over the steps"), series, 120, "{:.2g}")


def speed(lines: Sequence[Mapping[str, Any]], width: float) -> Drawing:
    """Tokens a second of every step, padding not counted."""
    rates = [(float(m["step"]), m["tokens"] / m["seconds"]) for m in lines if m.get("seconds") and "tokens" in m]
    series = [Series("tokens a second", thinned(rates), "accent")]
    drawing = Drawing("speed", width, 0, "Tokens a second", "Tokens a second over the steps")
    return add_lines(drawing, series, 120, "{:,.0f}")


def base_and_tuned(
    rows: Sequence[DotRow], width: float, name: str, title: str, columns: tuple[str, str] = ("base", "tuned")
) -> Drawing:
    """Two dots a row. columns: what the legend calls base and tuned model."""
    both = ((columns[0], "base", "neutral"), (columns[1], "tuned", "accent"))
    return dots(rows, width, name, title, both)
