"""The pictures of a run: curves over its steps, and base against tuned as two dots on one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.data_report.charts import GUTTER, legend
from pipeline.pages.drawing import Curve, Dot, Drawing, Line, Rect, Text, fitted
from pipeline.pages.text import visible
from pipeline.training.metrics import running_mean

POINTS = 300  # of a curve; longer ones are averaged
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """Points (step, value) of one line. dots: few values, each of them to be pointed at."""

    name: str
    points: Points
    colour: str
    width: float = 2
    dots: bool = False


def losses(lines: Sequence[Mapping[str, Any]], width: float) -> Drawing:
    """Training loss of every step with its running mean, held-out loss, and loss on general text; nats a token."""
    train = points(lines, "loss")
    means = list(zip([x for x, _ in train], running_mean([y for _, y in train]), strict=True))
    series = [
        Series("training, each step", thinned(train), "accent-3", 1),
        Series("training, running mean", thinned(means), "accent"),
        Series("held-out rows", points(lines, "val_loss"), "warn", 1.5, True),
        Series("general text", points(lines, "general_loss"), "neutral", 1.5, True),
    ]
    return plot(Drawing("loss", width, 0, "Loss", "Loss over the steps of training"), series, 240, "{:.3f}")


def rate(lines: Sequence[Mapping[str, Any]], width: float) -> Drawing:
    """The learning rate of every step."""
    series = [Series("learning rate", thinned(points(lines, "lr")), "accent")]
    return plot(Drawing("rate", width, 0, "Learning rate", "Learning rate over the steps"), series, 120, "{:.2g}")


def speed(lines: Sequence[Mapping[str, Any]], width: float) -> Drawing:
    """Tokens a second of every step, padding not counted."""
    found = [(float(m["step"]), m["tokens"] / m["seconds"]) for m in lines if m.get("seconds") and "tokens" in m]
    series = [Series("tokens a second", thinned(found), "accent")]
    return plot(Drawing("speed", width, 0, "Tokens a second", "Tokens a second over the steps"), series, 120, "{:,.0f}")


def points(lines: Sequence[Mapping[str, Any]], name: str) -> Points:
    """(step, value) of every line that has the value; one that is no finite number is left out."""
    return [(float(m["step"]), float(m[name])) for m in lines if name in m and math.isfinite(float(m[name] or 0))]


def thinned(found: Points, most: int = POINTS) -> Points:
    """Means of neighbours, so that no more than `most` points are left."""
    size = max(1, math.ceil(len(found) / most))
    groups = [found[i : i + size] for i in range(0, len(found), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def plot(drawing: Drawing, series: Sequence[Series], height: float, form: str) -> Drawing:
    """Lines over steps, from zero upwards. form: how a value is written."""
    series = [s for s in series if s.points]
    left, right = 58.0, drawing.width - 10
    top = legend(drawing, [(s.colour, s.name) for s in series]) if len(series) > 1 else 8.0
    bottom = top + height
    most = max((y for s in series for _, y in s.points), default=0.0) or 1.0
    last = max((x for s in series for x, _ in s.points), default=0.0) or 1.0
    for tick in ticks(most, 5 if height > 150 else 4):
        y = bottom - height * tick / most
        drawing.add(Line(left, y, right, y, "grid" if tick else "neutral"))
        drawing.add(Text(left - 8, y + 4, f"{tick:,.10g}", 11.5, "soft", "end"))
    for tick in ticks(last, 8 if drawing.width > 500 else 4):
        x = left + (right - left) * tick / last
        drawing.add(Text(x, bottom + 17, f"{tick:,.0f}", 11.5, "soft", "middle"))
    for one in series:
        placed = [(left + (right - left) * x / last, bottom - height * y / most) for x, y in one.points]
        if len(placed) > 1:
            drawing.add(Curve(tuple(placed), one.colour, one.width))
        if one.dots or len(placed) == 1:
            for (x, y), (step, value) in zip(placed, one.points, strict=True):
                drawing.add(Dot(x, y, 3.5, one.colour, f"{one.name}, step {step:,.0f}: {form.format(value)}"))
    _pointers(drawing, series, (left, right, top, bottom, last), form)
    drawing.height = bottom + 24
    return drawing


def _pointers(
    drawing: Drawing, series: Sequence[Series], place: tuple[float, float, float, float, float], form: str
) -> None:
    """Invisible stripes that say the values of a step; under the dots, which speak for themselves."""
    left, right, top, bottom, last = place
    lines = [s for s in series if not s.dots]
    if not lines:
        return
    steps = [x for x, _ in thinned(lines[0].points, 100)]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(steps)), last]
    stripes = []
    for step, (start, end) in zip(steps, pairwise(edges), strict=True):
        said = [f"{s.name} {form.format(min(s.points, key=lambda p: abs(p[0] - step))[1])}" for s in lines]
        x, wide = left + (right - left) * start / last, (right - left) * (end - start) / last
        stripes.append(Rect(x, top, wide, bottom - top, "transparent", f"step {step:,.0f}: {', '.join(said)}"))
    drawing.marks[:0] = stripes


@dataclass(frozen=True)
class Pair:
    """One measure of both models, in 0 to 1, with standard errors where they are known."""

    label: str
    base: float
    tuned: float
    base_error: float = 0.0
    tuned_error: float = 0.0


def pairs(
    found: Sequence[Pair], width: float, name: str, title: str, columns: tuple[str, str] = ("base", "tuned")
) -> Drawing:
    """For each measure a line from the base's dot to the tuned model's, on a scale from 0 to 100 %."""
    drawing = Drawing(name, width, 0, title, f"{title}, {columns[0]} and {columns[1]}")
    wide = width > 500
    left, room = float(GUTTER if wide else 6), 118.0 if wide else 6.0
    scale, step = width - left - room, 27 if wide else 44
    errors = any(pair.base_error or pair.tuned_error for pair in found)
    meaning = [("accent-3", "± a standard error")] if errors else []
    top = legend(drawing, [("neutral", columns[0]), ("accent", columns[1]), *meaning])
    bottom = top + len(found) * step
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + share * scale
        drawing.add(Line(x, top - 4, x, bottom), Text(x, bottom + 15, f"{share:.0%}", 11.5, "soft", "middle"))
    for number, pair in enumerate(found):
        y = top + number * step
        label = fitted(visible(pair.label), 13, (left - 14) if wide else width - 120)
        said = f"{pair.base:.0%} → {pair.tuned:.0%}"
        drawing.add(Text(0, y + 13, label, 13, tip=pair.label if label != pair.label else ""))
        drawing.add(Text(width, y + 13, said, 12.5, "soft", "end"))
        _pair(drawing, pair, left, scale, y + (9 if wide else 28))
    drawing.height = bottom + 22
    return drawing


def _pair(drawing: Drawing, pair: Pair, left: float, scale: float, y: float) -> None:
    def place(value: float) -> float:
        return left + min(max(value, 0.0), 1.0) * scale

    both = ((pair.base, pair.base_error, "base", "neutral"), (pair.tuned, pair.tuned_error, "tuned", "accent"))
    for value, error, _, _ in both:
        if error and not math.isnan(error):
            start = place(value - error)
            drawing.add(Rect(start, y - 4, max(place(value + error) - start, 1), 8, "accent-3"))
    drawing.add(Line(place(pair.base), y, place(pair.tuned), y, "neutral", 1.5))
    for value, error, who, colour in both:
        around = f" ± {error:.1%}" if error and not math.isnan(error) else ""
        drawing.add(Dot(place(value), y, 5, colour, f"{pair.label}, {who}: {value:.1%}{around}"))


def ticks(most: float, few: int) -> list[float]:
    """Zero and round numbers up to `most`, at most `few` of them above zero."""
    power = 10.0 ** math.floor(math.log10(most / few))
    step = next(s * power for s in (1, 2, 5, 10) if s * power * few >= most * 0.999)
    return [n * step for n in range(int(most / step * 1.000001) + 1)]
