"""metrics.jsonl, loss.png, and spikes: steps whose loss is far above those before."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.pages.charts import Points, Series, add_lines, thinned
from pipeline.pages.drawing import WIDE, Drawing
from pipeline.pages.phrases import phrase
from pipeline.run.files import write_text

MIN_STEPS = 20  # before a step can be a spike
NEW = 0.05  # weight of a new step in the running mean
DEVIATIONS = 5.0  # above the mean; the loss of small batches of short answers varies a lot
UNREADABLE = 1 << 60


def rewind(path: Path, step: int) -> None:
    """Removes the lines after `step`, at which a run resumes; the file is replaced atomically."""
    if not path.is_file():
        return
    write_text(path, "".join(line + "\n" for line in _lines(path) if _step(line) <= step))


def skipped(line: dict[str, Any], rows: list[str]) -> dict[str, Any]:
    """The line of a step whose gradients overflowed: its rows, and only numbers that are finite. Nothing was learnt."""
    finite = {name: value for name, value in line.items() if math.isfinite(value)}
    return {**finite, "learnt": 0, "skipped": rows}


def append(path: Path, values: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values, ensure_ascii=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All lines, oldest first, without damaged ones, such as a line that a crash cut in two."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in _lines(path) if _step(line) < UNREADABLE]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n")


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return UNREADABLE


def running_mean(values: Sequence[float]) -> list[float]:
    """Exponential running mean, 0.9 of the old mean and 0.1 of the new value; starts at the first value."""
    mean, means = values[0] if values else 0.0, []
    for value in values:
        mean = 0.9 * mean + 0.1 * value
        means.append(mean)
    return means


class Spikes:
    """Running mean and variance of the loss, exponentially weighted, without the spikes themselves.

    losses: of the steps before, when a run is resumed.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.mean, self.variance, self.count = 0.0, 0.0, 0
        for loss in losses:
            self.is_spike(loss)

    def is_spike(self, loss: float) -> bool:
        """Whether this step's loss is far above those before; otherwise it enters the mean."""
        self.count += 1
        if self.count == 1:
            self.mean = loss
        off = loss - self.mean
        if self.count > MIN_STEPS and off > DEVIATIONS * max(self.variance**0.5, 0.02 * self.mean):
            return True
        self.mean += NEW * off
        self.variance = (1 - NEW) * (self.variance + NEW * off * off)
        return False


def loss_chart(lines: Sequence[Mapping[str, Any]], width: float, title: str = "Loss") -> Drawing:
    """Training loss of every step and its running mean, held-out loss, and loss on general text; nats a token."""
    train = points(lines, "loss")
    means = list(zip([step for step, _ in train], running_mean([loss for _, loss in train]), strict=True))
    series = [
        Series(phrase("loss-each-step"), thinned(train), "accent-2", 1),
        Series(phrase("loss-mean"), thinned(means), "accent", 2.5),
        Series(phrase("loss-held-out"), points(lines, "val_loss"), "warn", 1.5, True),
        Series(phrase("loss-general"), points(lines, "general_loss"), "left", 1.5, True),
    ]
    x_axis, y_axis = phrase("axis-step"), phrase("axis-loss")
    drawing = Drawing("loss", width, 0, title, phrase("alt-loss"), x_axis=x_axis, y_axis=y_axis)
    return add_lines(drawing, series, 240, "{:.3f}")


def points(lines: Sequence[Mapping[str, Any]], name: str) -> Points:
    """(step, value) of every line that has the value; one that is no finite number is left out."""
    return [(float(m["step"]), float(m[name])) for m in lines if name in m and math.isfinite(float(m[name] or 0))]


def plot(path: Path, lines: list[dict[str, Any]], title: str) -> None:
    """`loss_chart` as a PNG."""
    from pipeline.pages import png  # matplotlib takes a second

    drawing = loss_chart(lines, WIDE, title)
    png.write(drawing, path)
