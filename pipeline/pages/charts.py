"""The three kinds of chart that pages and pictures share: horizontal bars, lines over steps, dots with standard errors.

    bars          label | ███████▒▒▒ 1,234        add_bars
    lines         value ^ ~~\\__ over step         add_lines
    dots          label | ○────●   12% → 34%      dots

Each adds marks to a `Drawing` below what is there already, and draws for the drawing's width: up to 500 pixels labels
stand above their bar instead of beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.pages.drawing import Curve, Dot, Drawing, Line, Rect, Text, fitted, text_width
from pipeline.pages.text import visible

GUTTER = 210  # for labels, left of the bars of a wide drawing
POINTS = 300  # of a line; longer ones are averaged
Points = list[tuple[float, float]]


def legend(drawing: Drawing, entries: Sequence[tuple[str, str]], top: float = 0.0) -> float:
    """Squares of (colour, label) on one or more lines; returns the y at which the chart may begin."""
    x, y = 0.0, top
    for colour, label in entries:
        length = 18 + text_width(label, 12.5) + 16
        if x and x + length > drawing.width:
            x, y = 0.0, y + 20
        drawing.add(Rect(x, y + 1, 11, 11, colour), Text(x + 17, y + 11, label, 12.5, "soft"))
        x += length
    return y + 30


def round_up(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def ticks(most: float, count: int) -> list[float]:
    """Zero and round numbers up to `most`, at most `count` of them above zero."""
    step = round_up(most / count * 0.999)
    return [n * step for n in range(int(most / step * 1.000001) + 1)]


# --- bars


@dataclass(frozen=True)
class Bar:
    """pieces: (amount, colour, tip). value: text behind the bar. start: amount left free before the pieces. tip: of
    the label, in place of its full text. link: an id on the page. inset: pixels that the label is moved right."""

    label: str
    pieces: Sequence[tuple[float, str, str]]
    value: str
    start: float = 0
    link: str = ""
    tip: str = ""
    bold: bool = False
    inset: float = 0


@dataclass(frozen=True)
class Scale:
    """left: where bars begin. unit: pixels of an amount of 1. right: where the longest bar ends."""

    left: float
    unit: float
    right: float


def bars(drawing: Drawing, rows: Sequence[Bar], meanings: Sequence[tuple[str, str]] = ()) -> Drawing:
    """Horizontal bars below each other, with a legend of (colour, meaning) above."""
    add_bars(drawing, rows, legend(drawing, meanings) if meanings else 2.0)
    return drawing


def add_bars(drawing: Drawing, rows: Sequence[Bar], top: float) -> Scale:
    """Adds bars from y = `top` on and sets the drawing's height."""
    wide = drawing.width > 500
    left = float(GUTTER if wide else 0)
    room = max((text_width(row.value, 12.5) for row in rows), default=0) + 10
    largest = max((row.start + sum(n for n, _, _ in row.pieces) for row in rows), default=0) or 1
    scale = (drawing.width - left - (room if wide else 0)) / largest
    step, thick = (27, 16) if wide else (40, 14)
    for number, row in enumerate(rows):
        y = top + number * step
        label = fitted(row.label, 13, (left - 14 if wide else drawing.width - room) - row.inset)
        tip = row.tip or (row.label if label != row.label else "")
        base = y + 12.5
        drawing.add(Text(row.inset, base, label, 13, bold=row.bold, tip=tip, link=row.link))
        y += 0 if wide else 19
        at = left + row.start * scale
        for amount, colour, tip in row.pieces:
            if amount > 0:
                length = max(amount * scale, 1.5)
                drawing.add(Rect(min(at, left + largest * scale - length), y, length, thick, colour, tip, row.link))
                at += length
        if wide:
            drawing.add(Text(at + 7, base, row.value, 12.5, "soft"))
        else:
            drawing.add(Text(drawing.width, base, row.value, 12.5, "soft", "end"))
    drawing.height = top + len(rows) * step - (step - thick if wide else 4)
    return Scale(left, scale, left + largest * scale)


# --- lines


@dataclass(frozen=True)
class Series:
    """One line of points (step, value). dots: each point gets a dot with its value as a tip."""

    name: str
    points: Points
    colour: str
    width: float = 2
    dots: bool = False


@dataclass(frozen=True)
class Plane:
    """The rectangle of a line chart in pixels, and the values at its edges; steps begin with 0 at `left`."""

    left: float
    right: float
    top: float
    bottom: float
    last: float
    low: float
    high: float
    log: bool

    def x(self, step: float) -> float:
        return self.left + (self.right - self.left) * step / self.last

    def y(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.bottom - (self.bottom - self.top) * (at - low) / (high - low)

    def values(self, count: int) -> list[float]:
        """Where grid lines stand."""
        if self.log:
            return [10.0**n for n in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        step = round_up((self.high - self.low) / count * 0.999)
        return [n * step for n in range(math.ceil(self.low / step - 1e-6), int(self.high / step * 1.000001) + 1)]


def thinned(points: Points, most: int = POINTS) -> Points:
    """Means of neighbours, so that no more than `most` points are left."""
    size = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def add_lines(
    drawing: Drawing, series: Sequence[Series], height: float, form: str, from_zero: bool = True, log: bool = False
) -> Drawing:
    """Adds a line chart below what the drawing holds.

    Args:
        height: of the chart in pixels, without legend and ticks. form: how a value is written in tips, as `{:.3f}`.
        from_zero: the axis begins at 0, not at the least value. log: powers of ten; values must be above 0.
    """
    series = [s for s in series if s.points]
    above = drawing.height
    names = list(dict.fromkeys((s.colour, s.name) for s in series))
    top = legend(drawing, names, above) if len(names) > 1 else above + 8.0
    plane = _plane(drawing, series, (top, top + height), from_zero, log)
    for value in plane.values(5 if height > 150 else 4):
        y = plane.y(value)
        drawing.add(Line(plane.left, y, plane.right, y, "grid" if value else "neutral"))
        drawing.add(Text(plane.left - 8, y + 4, f"{value:,.10g}", 11.5, "soft", "end"))
    for step in ticks(plane.last, 8 if drawing.width > 500 else 4):
        drawing.add(Text(plane.x(step), plane.bottom + 17, f"{step:,.0f}", 11.5, "soft", "middle"))
    for one in series:
        placed = [(plane.x(step), plane.y(value)) for step, value in one.points]
        if len(placed) > 1:
            drawing.add(Curve(tuple(placed), one.colour, one.width))
        if one.dots or len(placed) == 1:
            for (x, y), (step, value) in zip(placed, one.points, strict=True):
                drawing.add(Dot(x, y, 3.5, one.colour, f"{one.name}, step {step:,.0f}: {form.format(value)}"))
    _add_tips(drawing, series, plane, form)
    drawing.height = plane.bottom + 24
    return drawing


def _plane(
    drawing: Drawing, series: Sequence[Series], vertical: tuple[float, float], from_zero: bool, log: bool
) -> Plane:
    values = [value for s in series for _, value in s.points]
    low, high = 0.0, max(values, default=0.0) or 1.0
    if log:
        low, high = (10.0 ** edge(math.log10(v)) for edge, v in ((math.floor, min(values)), (math.ceil, high)))
        high = high if high > low else 10 * low
    elif not from_zero and values and min(values) < high:
        low = min(values)
    last = max((step for s in series for step, _ in s.points), default=0.0) or 1.0
    return Plane(58.0, drawing.width - 10, *vertical, last, low, high, log)


def _add_tips(drawing: Drawing, series: Sequence[Series], plane: Plane, form: str) -> None:
    """Invisible stripes that show the values of a step; below the dots, which have tips of their own."""
    lines = [s for s in series if not s.dots]
    if not lines:
        return
    steps = [x for x, _ in thinned(lines[0].points, 100)]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(steps)), plane.last]
    stripes = []
    for step, (start, end) in zip(steps, pairwise(edges), strict=True):
        values = [f"{s.name} {form.format(min(s.points, key=lambda p: abs(p[0] - step))[1])}" for s in lines]
        x, width = plane.x(start), plane.x(end) - plane.x(start)
        tip = f"step {step:,.0f}: {', '.join(values)}"
        stripes.append(Rect(x, plane.top, width, plane.bottom - plane.top, "transparent", tip))
    drawing.marks[:0] = stripes


# --- dots


@dataclass(frozen=True)
class DotRow:
    """One measure: for each column a share from 0 to 1 with its standard error (0 or NaN: unknown), or None."""

    label: str
    values: Sequence[tuple[float, float] | None]


def dots(
    rows: Sequence[DotRow], width: float, name: str, title: str, columns: Sequence[tuple[str, str, str]]
) -> Drawing:
    """For each row a line from the first dot to the last, on a scale from 0 to 100 %, with bands of a standard error.

    Args:
        columns: (label in the legend, label in tips, colour) of each dot.
    """
    drawing = Drawing(name, width, 0, title, f"{title}, {' and '.join(label for label, _, _ in columns)}")
    wide = width > 500
    left, room = float(GUTTER if wide else 6), 118.0 if wide else 6.0
    scale, step = width - left - room, 27 if wide else 44
    errors = any(value and value[1] for row in rows for value in row.values)
    meaning = [("accent-3", "± a standard error")] if errors else []
    top = legend(drawing, [*((colour, label) for label, _, colour in columns), *meaning])
    bottom = top + len(rows) * step
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + share * scale
        drawing.add(Line(x, top - 4, x, bottom), Text(x, bottom + 15, f"{share:.0%}", 11.5, "soft", "middle"))
    for number, row in enumerate(rows):
        y = top + number * step
        label = fitted(visible(row.label), 13, (left - 14) if wide else width - 120)
        ends = [value for value in row.values if value is not None]
        drawing.add(Text(0, y + 13, label, 13, tip=row.label if label != row.label else ""))
        change = " → ".join(f"{value:.0%}" for value, _ in (ends[:1] + ends[-1:] if len(ends) > 1 else ends))
        drawing.add(Text(width, y + 13, change, 12.5, "soft", "end"))
        _add_dots(drawing, row, columns, left, scale, y + (9 if wide else 28))
    drawing.height = bottom + 22
    return drawing


def _add_dots(
    drawing: Drawing, row: DotRow, columns: Sequence[tuple[str, str, str]], left: float, scale: float, y: float
) -> None:
    def place(value: float) -> float:
        return left + min(max(value, 0.0), 1.0) * scale

    there = [(*value, who, colour) for value, (_, who, colour) in zip(row.values, columns, strict=True) if value]
    for value, error, _, _ in there:
        if error and not math.isnan(error):
            start = place(value - error)
            drawing.add(Rect(start, y - 4, max(place(value + error) - start, 1), 8, "accent-3"))
    if len(there) > 1:
        drawing.add(Line(place(there[0][0]), y, place(there[-1][0]), y, "neutral", 1.5))
    for value, error, who, colour in there:
        around = f" ± {error:.1%}" if error and not math.isnan(error) else ""
        drawing.add(Dot(place(value), y, 5, colour, f"{row.label}, {who}: {value:.1%}{around}"))
