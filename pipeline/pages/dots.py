"""A chart of shares: for each row dots on a scale from 0 to 100 %, with bars of one standard error.

label (n = 8) | ├○┤────├●┤   12% → 34%
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.pages.charts import GUTTER, TOUCH, legend
from pipeline.pages.drawing import Dot, Drawing, Line, Text, fitted
from pipeline.pages.phrases import joined, phrase


@dataclass(frozen=True)
class DotRow:
    """One measure: for each column a share from 0 to 1 with its standard error (0 or NaN: unknown), or None."""

    label: str
    values: Sequence[tuple[float, float] | None]


def dots(
    rows: Sequence[DotRow], width: float, name: str, title: str, columns: Sequence[tuple[str, str, str]]
) -> Drawing:
    """For each row a line from the first dot to the last, on a scale from 0 to 100 %, with bars of one standard error.

    Args:
        columns: (label in the legend, label in tips, colour) of each dot.
    """
    said = joined([title, *(label for label, _, _ in columns)], ", ")
    drawing = Drawing(name, width, 0, title, said, x_axis=phrase("axis-share"))
    wide = width > 500
    left, room = float(GUTTER if wide else 6), 118.0 if wide else 6.0
    scale, step = width - left - room, 27 if wide else TOUCH
    errors = any(value and value[1] for row in rows for value in row.values)
    top = legend(drawing, [(colour, label) for label, _, colour in columns], marker="circle")
    bottom = top + len(rows) * step
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + share * scale
        anchor = "end" if share == 1 and not wide else "middle"
        drawing.add(Line(x, top - 4, x, bottom), Text(x, bottom + 15, f"{share:.0%}", 11.5, "soft", anchor))
    for number, row in enumerate(rows):
        y = top + number * step
        label = fitted(row.label, 13, (left - 14) if wide else width - 120)
        ends = [value for value in row.values if value is not None]
        drawing.add(Text(0, y + 13, label, 13, tip=row.label if label != row.label else ""))
        change = " → ".join(f"{value:.0%}" for value, _ in (ends[:1] + ends[-1:] if len(ends) > 1 else ends))
        drawing.add(Text(width, y + 13, change, 12.5, "soft", "end"))
        _add_dots(drawing, row, columns, left, scale, y + (9 if wide else 28))
    axis = phrase("axis-share-error") if errors else drawing.x_axis
    drawing.add(Text(left + scale, bottom + 31, axis, 11.5, "soft", "end"))
    drawing.height = bottom + 38
    return drawing


def _add_dots(
    drawing: Drawing, row: DotRow, columns: Sequence[tuple[str, str, str]], left: float, scale: float, y: float
) -> None:
    def place(value: float) -> float:
        return left + min(max(value, 0.0), 1.0) * scale

    there = [(*value, who, colour) for value, (_, who, colour) in zip(row.values, columns, strict=True) if value]
    if len(there) > 1:
        drawing.add(Line(place(there[0][0]), y, place(there[-1][0]), y, "neutral", 1.5))
    for value, error, _, colour in there:
        if error and not math.isnan(error):
            ends = place(value - error), place(value + error)
            drawing.add(Line(ends[0], y, ends[1], y, colour, 3))
            drawing.add(*(Line(x, y - 5, x, y + 5, colour, 1.5) for x in ends))
    for value, error, who, colour in there:
        around = f" ± {error:.1%}" if error and not math.isnan(error) else ""
        tip = phrase("tip-share", label=row.label, who=who, value=f"{value:.1%}{around}")
        drawing.add(Dot(place(value), y, 5, colour, tip))
