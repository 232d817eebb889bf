"""metrics.jsonl and loss.png."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def plot(path: Path, lines: list[dict[str, Any]], title: str) -> None:
    """Training loss of every step, its running mean, the held-out loss, and that on general text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train = [(m["step"], m["loss"]) for m in lines if "loss" in m]
    val = [(m["step"], m["val_loss"]) for m in lines if "val_loss" in m]
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color="#9ecae1", linewidth=1, label="training, each step")
        axes.plot(steps, running(losses), color="#2171b5", linewidth=2, label="training, running mean")
    if val:
        axes.plot(*zip(*val, strict=True), color="#e6550d", marker="o", linewidth=1.5, label="held out")
    general = [(m["step"], m["general_loss"]) for m in lines if "general_loss" in m]
    if general:
        axes.plot(*zip(*general, strict=True), color="#31a354", marker="s", linewidth=1.5, label="general text")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss per labelled token (nats)")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary)
    plt.close(figure)
    temporary.replace(path)
