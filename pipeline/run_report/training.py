"""The section of the run report on the training: charts, facts, and answers of the model during training."""

from __future__ import annotations

from functools import partial
from typing import Any

from pipeline.pages.figure import Figure, number, table
from pipeline.pages.phrases import html_of, phrase
from pipeline.pages.text import shorten
from pipeline.run_report import curves
from pipeline.run_report.contents import Contents
from pipeline.training.metrics import loss_chart

Fact = tuple[str, str]


def training(contents: Contents) -> str:
    """The whole section."""
    lines = contents.metrics
    if not contents.has("adapter") and not lines:
        return f"<p>{html_of(contents.missing('adapter', 'not-trained'))}</p>"
    if contents.config.adapter.method == "none" and not lines:
        return f"<p>{html_of(phrase('nothing-trained'))}</p>"
    note = ""
    if not contents.has("adapter"):
        last = max(m["step"] for m in lines)
        note = f"<p>{html_of(phrase('not-finished', step=f'{last:,}'))}</p>"
    steps = [m for m in lines if "loss" in m]
    figures = ""
    if lines:
        draw = partial(loss_chart, lines, title=curves.loss_finding(lines))
        figures = Figure(draw, phrase("note-loss"), *_evaluations(lines)).html()
    if steps:
        figures += Figure(partial(curves.learning_rate, lines)).html()
        figures += Figure(partial(curves.speed, lines), phrase("note-speed")).html()
    rows = facts(contents)
    known = f"<h3>{html_of(phrase('facts'))}</h3>{table(('', ''), rows)}" if rows else ""
    return note + figures + known + _answers_so_far(lines)


def _evaluations(lines: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table below the loss chart: every periodic evaluation, with the training loss of its step."""
    losses = {m["step"]: m["loss"] for m in lines if "loss" in m}
    rows = []
    for line in (m for m in lines if "val_loss" in m or "general_loss" in m):
        values = losses.get(line["step"]), line.get("val_loss"), line.get("general_loss")
        rows.append((f"{line['step']:,}", *("" if v is None else f"{v:.4f}" for v in values)))
    return tuple(number(phrase(f"head-{key}")) for key in ("step", "training", "held-out", "general")), rows


def facts(contents: Contents) -> list[Fact]:
    """Names and values of what the training counted."""
    counts, rows = contents.counts("adapter"), list[Fact]()
    steps = [m for m in contents.metrics if "loss" in m or "skipped" in m]
    if steps:
        tokens, seconds = sum(m.get("tokens", 0) for m in steps), sum(m.get("seconds", 0) for m in steps)
        learnt = sum(m.get("learnt", 0) for m in steps)
        rows += [(phrase("fact-steps"), f"{len(steps):,}"), (phrase("fact-epochs"), f"{steps[-1].get('epoch', 0):g}")]
        rows += [(phrase("fact-tokens"), phrase("tokens-with-loss", n=f"{tokens:,}", learnt=f"{learnt:,}"))]
        rows += [(phrase("fact-speed"), f"{tokens / seconds:,.0f}")] if seconds else []
        spikes = ", ".join(f"{m['step']:,}" for m in [m for m in steps if "spike" in m][:20])
        rows += [(phrase("fact-spikes"), phrase("at-steps", steps=spikes) if spikes else phrase("none"))]
    for key in ("planned_steps", "best_step", "best_loss", "train_seconds", "peak_gib", "device", "dtype",
                "skipped_steps", "loss_scale", "path", "processes", "micro_tokens", "trained_parameters",
                "parameters"):  # fmt: skip
        if key in counts:
            value = counts[key]
            rows.append((phrase(f"fact-{key}"), f"{value:,}" if isinstance(value, (int, float)) else str(value)))
    return rows


def _answers_so_far(lines: list[dict[str, Any]]) -> str:
    """Answers to one held-out question at each periodic evaluation."""
    samples = [(m["step"], m["samples"][0]) for m in lines if m.get("samples")]
    if not samples:
        return ""
    asked = {key: shorten(str(samples[0][1][key]), 300) for key in ("instruction", "expected")}
    rows = [(f"{step:,}", shorten(str(answer["said"]), 300)) for step, answer in samples[:40]]
    heading, question = phrase("answers-so-far"), phrase("asked", **asked)
    lead = f"<h3>{html_of(heading)}</h3><p class=soft>{html_of(question)}</p>"
    return lead + table((number(phrase("head-step")), phrase("head-answer")), rows)
