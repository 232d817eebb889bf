"""The charts that pages and pictures share: horizontal bars and lines over steps (dots: `pipeline.pages.dots`).

    bars          label | ███████▒▒▒ 1,234        add_bars
    lines         value ^ ~~\\__ over step         add_lines

Each adds marks to a `Drawing` below what is there already, and draws for the drawing's width: up to 500 pixels labels
stand above their bar instead of beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.pages.drawing import Curve, Dot, Drawing, Line, Rect, Text, fitted, text_width
from pipeline.pages.phrases import joined, phrase

GUTTER = 210  # for labels, left of the bars of a wide drawing
POINTS = 300  # of a line; longer ones are averaged
TOUCH = 44  # pixels of a row that can be touched
MARKERS = {"warn": "circle", "left": "diamond"}  # of lines with few points, by colour
Points = list[tuple[float, float]]


def legend(drawing: Drawing, entries: Sequence[tuple[str, str]], top: float = 0.0, marker: str = "") -> float:
    """Signs of (colour, label) on one or more lines; returns the y at which the chart may begin.

    Args:
        marker: `circle` for dots in place of squares; `line`: a line, with a marker where `MARKERS` has one.
    """
    x, y = 0.0, top
    for colour, label in entries:
        length = 18 + text_width(label, 12.5) + 16
        if x and x + length > drawing.width:
            x, y = 0.0, y + 20
        shape = MARKERS.get(colour, "") if marker == "line" else marker
        if marker == "line":
            drawing.add(Line(x, y + 6.5, x + 12, y + 6.5, colour, 2))
        if shape:
            drawing.add(Dot(x + 6, y + 6.5, 4.5, colour, shape=shape))
        elif not marker:
            drawing.add(Rect(x, y + 1, 11, 11, colour))
        drawing.add(Text(x + 17, y + 11, label, 12.5, "soft"))
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
    step, thick = (27, 16) if wide else (TOUCH, 14)
    for number, row in enumerate(rows):
        y = top + number * step
        if row.link:  # the whole row leads there
            said = joined((tip for amount, _, tip in row.pieces if amount > 0), ", ")
            drawing.add(Rect(0, y - 2, drawing.width, step, "transparent", said, row.link))
        label = fitted(row.label, 13, (left - 14 if wide else drawing.width - room) - row.inset)
        tip = row.tip or (row.label if label != row.label else "")
        base = y + 12.5
        drawing.add(Text(row.inset, base, label, 13, bold=row.bold, tip=tip, link=row.link))
        y += 0 if wide else 19
        at = left + row.start * scale
        for amount, colour, tip in row.pieces:
            if amount > 0:
                length = max(amount * scale, 1.5)
                place = min(at, left + largest * scale - length)
                # A hair of paper keeps pieces of like lightness apart.
                drawing.add(Rect(place, y, max(length - 1, 1.5), thick, colour, tip, row.link))
                at += length
        if wide:
            drawing.add(Text(at + 7, base, row.value, 12.5, "soft"))
        else:
            drawing.add(Text(drawing.width, base, row.value, 12.5, "soft", "end"))
    drawing.height = top + len(rows) * step - (step - thick if wide else 6)
    if drawing.x_axis:
        drawing.add(Text(left, drawing.height + 17, drawing.x_axis, 11.5, "soft"))
        drawing.height += 22
    return Scale(left, scale, left + largest * scale)


# --- lines


@dataclass(frozen=True)
class Series:
    """One line of points (step, value). dots: each point gets a marker with its value as a tip."""

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
    top = legend(drawing, names, above, "line") if len(names) > 1 else above + 8.0
    if drawing.y_axis:
        drawing.add(Text(0, top + 4, drawing.y_axis, 11.5, "soft"))
        top += 24
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
            shape = MARKERS.get(one.colour, "circle")
            for (x, y), (step, value) in zip(placed, one.points, strict=True):
                tip = phrase("tip-point", name=one.name, step=f"{step:,.0f}", value=form.format(value))
                drawing.add(Dot(x, y, 4.5, one.colour, tip, shape))
    _add_tips(drawing, series, plane, form)
    drawing.height = plane.bottom + 24
    if drawing.x_axis:
        drawing.add(Text(plane.right, plane.bottom + 33, drawing.x_axis, 11.5, "soft", "end"))
        drawing.height += 16
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
        values = joined(
            (joined([s.name, form.format(min(s.points, key=lambda p: abs(p[0] - step))[1])]) for s in lines), ", "
        )
        x, width = plane.x(start), plane.x(end) - plane.x(start)
        tip = phrase("tip-step", step=f"{step:,.0f}", values=values)
        stripes.append(Rect(x, plane.top, width, plane.bottom - plane.top, "transparent", tip))
    drawing.marks[:0] = stripes
