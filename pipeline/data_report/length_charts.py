"""Charts of lengths: histograms, and quantiles by split and source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.data_report import findings
from pipeline.data_report.charts import SPLITS, names_of, word
from pipeline.data_report.numbers import share
from pipeline.pages.charts import GUTTER, round_up
from pipeline.pages.drawing import Drawing, Line, Rect, Text, fitted
from pipeline.pages.phrases import joined, phrase


def histogram(
    lengths: Mapping[str, Any], unit: str, name: str, title: str, cutoff: int | None, width: float
) -> Drawing:
    """Vertical bars; the cutoff as a dashed line where the scale reaches it; rows beyond the scale as one grey bar."""
    height, top, left = 240.0, 46.0, 48.0
    axis = word(unit)
    drawing = Drawing(name, width, height + 44, title, title, x_axis=axis, y_axis=phrase("axis-rows"))
    drawing.add(Text(0, 26, drawing.y_axis, 11.5, "soft"), Text(width, height + 34, axis, 11.5, "soft", "end"))
    values = [*lengths["counts"], *([lengths["over"]] if lengths["over"] else [])]
    step, high = (width - left) / max(len(values), 1), max(values, default=0) or 1
    for tick in [0, *_ticks(high)]:
        y = height - (height - top) * tick / high
        drawing.add(Line(left, y, width, y, "grid" if tick else "neutral"))
        drawing.add(Text(left - 8, y + 4, f"{tick:,}", 11.5, "soft", "end"))
    for number, rows in enumerate(values):
        low = number * lengths["width"]
        over = number == len(lengths["counts"])
        if rows:
            span = phrase("span-over" if over else "span", low=f"{low:,}", high=f"{low + lengths['width'] - 1:,}")
            tip = phrase("tip-length", span=span, unit=axis, rows=f"{rows:,}", share=share(rows, lengths["rows"]))
            size = max((height - top) * rows / high, 1.5)
            gap = min(1.0, step / 8)
            drawing.add(
                Rect(left + number * step, height - size, step - gap, size, "neutral" if over else "accent", tip)
            )
    every = _round_step(len(lengths["counts"]), 9 if width > 500 else 5)
    for number in range(0, len(lengths["counts"]) + 1, every):
        anchor = "end" if number * step > width - left - 12 else "middle"
        drawing.add(Text(left + number * step, height + 17, f"{number * lengths['width']:,}", 11.5, "soft", anchor))
    if cutoff is not None and cutoff / lengths["width"] <= len(values):
        x = min(left + step * cutoff / lengths["width"], width - 1)
        side = -1 if x > width / 2 else 1
        drawing.add(Line(x, 0, x, height, "warn", 1.5, True))
        label = phrase("cutoff", n=f"{cutoff:,}")
        drawing.add(Text(x + 6 * side, 11, label, 12, "warn", "end" if side < 0 else "start"))
    return drawing


def length_groups(numbers: Mapping[str, Any], width: float) -> Drawing:
    """For each split and source a bar over the middle half, a gap at the median, a line over the middle 90 %."""
    lengths = numbers["lengths"]
    shown = sorted(lengths["groups"], key=lambda g: -g["rows"])[:16]
    order = [g for key, _ in SPLITS for g in lengths["groups"] if g in shown and g["part"] == key]
    names = names_of(list(dict.fromkeys(g["source"] for g in order)))
    unit = word(lengths["unit"])
    drawing = Drawing("length-groups", width, 0, findings.longest_group(lengths, names), phrase("alt-length-groups"))
    wide = width > 500
    left = float(GUTTER if wide else 0)
    largest = max((g["row"]["p95"] for g in order), default=0) or 1
    scale, step = (width - left - 12) / largest, 27 if wide else 40
    ticks = _ticks(largest, 6 if wide else 4)
    bottom = len(order) * step
    for tick in [0, *ticks]:
        x = left + tick * scale
        drawing.add(Line(x, 0, x, bottom), Text(x, bottom + 15, f"{tick:,}", 11.5, "soft", "middle" if x else "start"))
    for number, group in enumerate(order):
        y, q = number * step, group["row"]
        label = joined([word(group["part"]), names[group["source"]]], " · ")
        drawing.add(Text(0, y + 15, fitted(label, 13, (left if wide else width) - 14), 13, tip=group["source"]))
        y += 2 if wide else 19
        tip = phrase("tip-quantiles", label=label, rows=f"{group['rows']:,}", unit=unit, **q)
        a, b, c, d, e = (left + q[key] * scale for key in ("p5", "p25", "p50", "p75", "p95"))
        drawing.add(Line(a, y + 8, e, y + 8, "accent-2", 2, tip=tip), Rect(b, y + 2, max(d - b, 2), 12, "accent", tip))
        drawing.add(Rect(c - 1, y + 2, 2, 12, "paper", tip))
    drawing.add(Text(width, bottom + 31, unit, 11.5, "soft", "end"))
    drawing.height = bottom + 38
    return drawing


def _ticks(most: float, count: int = 5) -> list[int]:
    """Round whole numbers above zero up to `most`, at most `count`."""
    step = _round_step(int(most), count)
    return list(range(step, int(most) + 1, step))


def _round_step(most: int, count: int) -> int:
    return int(round_up(max(most / count, 1)))
