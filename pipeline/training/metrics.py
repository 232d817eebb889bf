"""metrics.jsonl, loss.png, and spikes: steps whose loss is far above those before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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


def plot(path: Path, lines: list[dict[str, Any]], title: str) -> None:
    """Draws the training loss of every step, its running mean, held-out loss and loss on general text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train = [(m["step"], m["loss"]) for m in lines if "loss" in m]
    val = [(m["step"], m["val_loss"]) for m in lines if "val_loss" in m]
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color="#9ecae1", linewidth=1, label="training, each step")
        axes.plot(steps, running_mean(losses), color="#2171b5", linewidth=2, label="training, running mean")
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
