"""The charts of a run: learning rate and speed over its steps, and base against tuned as dots on one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from pipeline.pages.charts import Series, add_lines, thinned
from pipeline.pages.dots import DotRow, dots
from pipeline.pages.drawing import Drawing
from pipeline.pages.phrases import Phrase, labelled, phrase
from pipeline.training.metrics import points

Lines = Sequence[Mapping[str, Any]]


def loss_finding(lines: Lines) -> Phrase:
    """Title of the loss chart: how the held-out loss went and where it was lowest, else how the training loss went."""
    held_out = points(lines, "val_loss")
    if len(held_out) > 1:
        first, last = held_out[0][1], held_out[-1][1]
        step, lowest = min(held_out, key=lambda point: point[1])
        values = {"first": f"{first:.2f}", "last": f"{last:.2f}", "step": f"{step:,.0f}", "lowest": f"{lowest:.2f}"}
        key = "fell" if last <= lowest * 1.01 and last < first else "turned" if lowest < first else "rose"
        return phrase(f"finding-loss-{key}", **values)
    train = [loss for _, loss in points(lines, "loss")]
    if not train:
        return phrase("finding-loss-none")
    return phrase("finding-loss-train", first=f"{train[0]:.2f}", last=f"{train[-1]:.2f}", steps=f"{len(train):,}")


def learning_rate(lines: Lines, width: float) -> Drawing:
    """The learning rate of every step."""
    rates = points(lines, "lr")
    step, highest = max(rates, key=lambda point: point[1], default=(0.0, 0.0))
    last = f"{rates[-1][1] if rates else 0:.2g}"
    title = phrase("finding-rate", highest=f"{highest:.2g}", step=f"{step:,.0f}", last=last)
    series = [Series(phrase("learning-rate"), thinned(rates), "accent")]
    return add_lines(_over_steps("rate", width, title, phrase("learning-rate")), series, 120, "{:.2g}")


def speed(lines: Lines, width: float) -> Drawing:
    """Tokens a second of every step, padding not counted."""
    rates = [(float(m["step"]), m["tokens"] / m["seconds"]) for m in lines if m.get("seconds") and "tokens" in m]
    title = phrase("finding-speed", median=f"{median([rate for _, rate in rates]) if rates else 0:,.0f}")
    series = [Series(phrase("tokens-a-second"), thinned(rates), "accent")]
    return add_lines(_over_steps("speed", width, title, phrase("tokens-a-second")), series, 120, "{:,.0f}")


def _over_steps(name: str, width: float, title: Phrase, y_axis: Phrase) -> Drawing:
    return Drawing(name, width, 0, title, title, x_axis=phrase("axis-step"), y_axis=y_axis)


def shares_finding(rows: Sequence[DotRow], of: str) -> Phrase:
    """Title of a chart of shares: rows on which the last column is above and below the first, beyond two errors where
    these are known. of: the text on what the rows are."""
    better = worse = 0
    for row in rows:
        ends = [value for value in row.values if value is not None]
        if len(ends) < 2:
            continue
        change, error = ends[-1][0] - ends[0][0], (ends[0][1] ** 2 + ends[-1][1] ** 2) ** 0.5
        if abs(change) > 2 * error:
            better, worse = better + (change > 0), worse + (change < 0)
    return phrase("finding-shares", of=phrase(of), better=better, worse=worse, n=len(rows))


def base_and_tuned(
    rows: Sequence[DotRow], width: float, name: str, title: str, columns: tuple[str, str] = ("base", "tuned")
) -> Drawing:
    """Two dots a row. columns: what the legend calls base and tuned model."""
    both = tuple(
        (labelled(column), labelled(who), colour)
        for column, who, colour in zip(columns, ("base", "tuned"), ("neutral", "accent"), strict=True)
    )
    return dots(rows, width, name, title, both)
