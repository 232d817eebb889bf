"""Compares and draws loss curves of two programs, with several seeds each.

Criteria for our curves against Trainer's (`hf_trainer.py`), written down before the first run:
  spread      At every step each of our curves is within mean ± 2 standard deviations of Trainer's (over seeds, n - 1):
              held-out loss, and running mean of the training loss (0.9, as in loss.png).
  same seed   Distance of each step's loss from Trainer's with the same seed, also relative to the spread. Adapter and
              batches are the same, so only rounding and its consequences remain.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.pages import png
from pipeline.pages.charts import Points, Series, add_lines
from pipeline.pages.drawing import WIDE, Drawing, Text
from pipeline.training.metrics import running_mean

TRAINER, OURS = "Trainer + peft", "Suri"
Curve = dict[int, float]  # step -> loss
Curves = dict[str, dict[int, Curve]]  # whose -> seed -> curve


def curve(lines: Sequence[Mapping[str, Any]], name: str) -> Curve:
    return {m["step"]: m[name] for m in lines if name in m}


def smoothed(found: Curve) -> Curve:
    """The running mean of loss.png."""
    return dict(zip(found, running_mean(list(found.values())), strict=True))


def outside(ours: Mapping[int, Curve], theirs: Mapping[int, Curve]) -> tuple[int, int, float]:
    """Points of ours outside mean ± 2 standard deviations of theirs at their step, points in all, and the largest
    distance from the mean in standard deviations. Steps without a spread (before the first one) are left out."""
    count, points, farthest = 0, 0, 0.0
    for step in next(iter(theirs.values())):
        values = [c[step] for c in theirs.values()]
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        if deviation < 1e-6:
            continue
        for found in ours.values():
            far = abs(found[step] - mean) / deviation
            count, points, farthest = count + (far > 2), points + 1, max(farthest, far)
    return count, points, farthest


def apart(ours: Mapping[int, Curve], theirs: Mapping[int, Curve]) -> Curve:
    """The largest distance between curves of the same seed, at each step."""
    return {step: max(abs(ours[seed][step] - c[step]) for seed, c in theirs.items()) for step in
            next(iter(theirs.values()))}  # fmt: skip


def numbers(train: Curves, held: Curves, weights: Sequence[float]) -> dict[str, Any]:
    """All numbers of the comparison. weights: `adapters_apart` of each seed."""
    found: dict[str, Any] = {}
    means = {who: {seed: smoothed(c) for seed, c in curves.items()} for who, curves in train.items()}
    for name, curves in (("held-out loss", held), ("training loss, running mean", means)):
        count, points, farthest = outside(curves[OURS], curves[TRAINER])
        found[name] = {"outside": count, "points": points, "farthest_in_deviations": farthest}
    for name, curves in (("training loss", train), ("held-out loss", held)):
        steps = apart(curves[OURS], curves[TRAINER])
        spread = [statistics.stdev(c[step] for c in curves[TRAINER].values()) for step in steps]
        found.setdefault(name, {})["same_seed"] = {
            "first": next(iter(steps.values())), "median": statistics.median(steps.values()),
            "largest": max(steps.values()), "last": list(steps.values())[-1],
            "median_deviation_of_seeds": statistics.median(spread),
        }  # fmt: skip
    found["held-out loss"]["last"] = {who: {s: list(c.values())[-1] for s, c in held[who].items()} for who in held}
    found["adapters_apart"] = list(weights)
    return found


def table(found: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = ["| | points | outside Trainer's mean ± 2 sd | farthest from its mean |", "|---|---:|---:|---:|"]
    for name in ("held-out loss", "training loss, running mean"):
        one = found[name]
        lines.append(f"| {name} | {one['points']} | {one['outside']} | {one['farthest_in_deviations']:.2f} sd |")
    lines += ["", "| same seed: distance | first step | median | largest | last | sd between Trainer's seeds |",
              "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name in ("training loss", "held-out loss"):
        one = found[name]["same_seed"]
        values = [f"{one[key]:.1e}" for key in ("first", "median", "largest", "last", "median_deviation_of_seeds")]
        lines.append(f"| {name} | {' | '.join(values)} |")
    lines += [
        "",
        "| held-out loss at the end | " + " | ".join(f"seed {s}" for s in found["held-out loss"]["last"][OURS]) + " |",
    ]
    lines.append("|---|" + "---:|" * len(found["held-out loss"]["last"][OURS]))
    for who, last in found["held-out loss"]["last"].items():
        lines.append(f"| {who} | " + " | ".join(f"{value:.5f}" for value in last.values()) + " |")
    lines += [
        "",
        "B differs by " + ", ".join(f"{x:.1e}" for x in found["adapters_apart"]) + " of its size.",
    ]
    return "\n".join(lines)


def draw(path: Path, train: Curves, held: Curves) -> None:
    """Three charts: training loss (running mean), held-out loss, and how far curves of one seed lie apart beside those
    of different seeds. Trainer's lines are wide and ours thin above them, so that both can be seen."""
    drawing = Drawing("curves", WIDE, 0, f"{OURS} and {TRAINER}", "Loss curves of both programs, several seeds each")
    means = {who: {seed: smoothed(c) for seed, c in curves.items()} for who, curves in train.items()}
    for curves, title in ((means, "Training loss, running mean"), (held, "Held-out loss")):
        styles = ((TRAINER, "warn", 4.5), (OURS, "ink", 1.0))
        series = [
            Series(who, _points(found), colour, width)
            for who, colour, width in styles for found in curves[who].values()
        ]  # fmt: skip
        _chart(drawing, title, series, from_zero=False)
    apart_series = []
    for curves, name, has_dots in ((train, "training", False), (held, "held-out", True)):
        steps = apart(curves[OURS], curves[TRAINER])
        spread = {s: statistics.stdev(c[s] for c in curves[TRAINER].values()) for s in steps}
        for values, colour, what in ((spread, "warn", "Trainer, sd between seeds"), (steps, "ink", "same seed")):
            above_zero = {s: v for s, v in values.items() if v > 1e-9}
            apart_series.append(Series(f"{name}: {what}", _points(above_zero), colour, 1.2, has_dots))
    _chart(drawing, "How far apart", apart_series, log=True)
    drawing.note = "Nats a labelled token, by optimiser step. Held-out points of the last chart are dots."
    png.write(drawing, path)


def _chart(drawing: Drawing, title: str, series: Sequence[Series], from_zero: bool = True, log: bool = False) -> None:
    """Adds a chart with its title below what the drawing holds."""
    drawing.add(Text(0, drawing.height + 24, title, 14, bold=True))
    drawing.height += 40
    add_lines(drawing, series, 240, "{:.3g}", from_zero, log)


def _points(found: Curve) -> Points:
    return [(float(step), loss) for step, loss in found.items()]
