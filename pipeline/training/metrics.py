"""metrics.jsonl and loss.png."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.pages.charts import Points, Series, add_lines, thinned
from pipeline.pages.drawing import WIDE, Drawing
from pipeline.run.files import write_text


def rewind(path: Path, step: int) -> None:
    """Drops what was written after the checkpoint that a run goes on from; the file is replaced in one step."""
    if not path.is_file():
        return
    write_text(path, "".join(line + "\n" for line in _lines(path) if _step(line) <= step))


def append(path: Path, values: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values, ensure_ascii=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All lines, oldest first; a line that is damaged, or that a crash cut in two, is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in _lines(path) if _step(line) < 1 << 60]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n")


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 1 << 60


def running(values: Sequence[float]) -> list[float]:
    """Exponential mean: nine tenths of what it was, one of what is new; starts at the first value."""
    mean, means = values[0] if values else 0.0, []
    for value in values:
        mean = 0.9 * mean + 0.1 * value
        means.append(mean)
    return means


def loss_chart(lines: Sequence[Mapping[str, Any]], width: float, title: str = "Loss") -> Drawing:
    """Training loss of every step and its running mean, held-out loss, and loss on general text; nats a token."""
    train = points(lines, "loss")
    means = list(zip([step for step, _ in train], running([loss for _, loss in train]), strict=True))
    series = [
        Series("training, each step", thinned(train), "accent-3", 1),
        Series("training, running mean", thinned(means), "accent"),
        Series("held-out rows", points(lines, "val_loss"), "warn", 1.5, True),
        Series("general text", points(lines, "general_loss"), "neutral", 1.5, True),
    ]
    return add_lines(Drawing("loss", width, 0, title, "Loss over the steps of training"), series, 240, "{:.3f}")


def points(lines: Sequence[Mapping[str, Any]], name: str) -> Points:
    """(step, value) of every line that has the value; one that is no finite number is left out."""
    return [(float(m["step"]), float(m[name])) for m in lines if name in m and math.isfinite(float(m[name] or 0))]


def plot(path: Path, lines: list[dict[str, Any]], title: str) -> None:
    """`loss_chart` as a PNG."""
    from pipeline.pages import png  # matplotlib takes a second

    drawing = loss_chart(lines, WIDE, title)
    drawing.note = "Loss in nats a labelled token, by optimiser step."
    png.write(drawing, path)
