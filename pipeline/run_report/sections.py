"""Sections of the run report on the run: summary, training, data and plan."""

from __future__ import annotations

from functools import partial
from typing import Any

from pipeline.config.method_rules import description
from pipeline.data_report.numbers import ReportData
from pipeline.data_report.sections import Sections
from pipeline.evaluation.general import forgetting
from pipeline.evaluation.scores import shown
from pipeline.pages.figure import Figure, table
from pipeline.pages.text import escape, shorten
from pipeline.run.errors import UserError
from pipeline.run_report import curves
from pipeline.run_report.contents import STAGES, Contents
from pipeline.training.metrics import loss_chart
from pipeline.training.plan import lines, plan


def summary(contents: Contents, warnings: list[str]) -> str:
    """One sentence, the headline numbers, the warnings, and the state of each stage."""
    config, trained = contents.config, contents.counts("adapter")
    rows = contents.counts("tokens").get("train", {}).get("rows") or contents.counts("dataset").get("train", 0)
    size = contents.trained_with("batch_size")
    steps = f", {trained['steps']:,} steps of {size} rows" if trained.get("steps") and size else ""
    how = description(config.adapter)
    lead = (
        f"<p><b>{escape(contents.base)}</b> with {rows:,} instructions in the template "
        f"<b>{escape(config.prompt.template)}</b>: {escape(how)}{steps}.</p>"
    )
    tiles = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in headline(contents)
    )
    alarm = f'<ul class="warnings">{"".join(f"<li>{w}</li>" for w in warnings)}</ul>' if warnings else ""
    return f'{lead}<div class="tiles pairs">{tiles}</div>{alarm}{_state(contents)}'


def headline(contents: Contents) -> list[tuple[str, str]]:
    """(value, label) of the numbers at the top that are known."""
    tiles = []
    trained, results = contents.counts("adapter"), contents.results
    if trained.get("trained_parameters"):
        share = trained["trained_parameters"] / trained["parameters"] if trained.get("parameters") else 0
        tiles.append((f"{trained['trained_parameters']:,}", f"parameters trained{f', {share:.2%}' if share else ''}"))
    if trained.get("train_seconds"):
        tiles.append((duration(trained["train_seconds"]), f"of training on {trained.get('device', '?')}"))
    base, tuned = results.get("base", {}), results.get("tuned", {})
    if "val" in base and "val" in tuned:
        tiles.append((f"{base['val']['loss']:.2f} → {tuned['val']['loss']:.2f}", "held-out loss, base → tuned"))
        if "exact" in tuned["val"]:
            tiles.append((f"{base['val']['exact']:.0%} → {tuned['val']['exact']:.0%}", "exact match, held-out rows"))
    elif losses := [m["val_loss"] for m in contents.metrics if "val_loss" in m]:
        tiles.append((f"{losses[0]:.2f} → {losses[-1]:.2f}", "held-out loss while training"))
    if "exact" in base.get("holdout", {}) and "exact" in tuned.get("holdout", {}):
        shares = f"{base['holdout']['exact']:.0%} → {tuned['holdout']['exact']:.0%}"
        tiles.append((shares, "exact match, tasks never trained on"))
    if base.get("general") and tuned.get("general"):
        change, error = forgetting(base["general"], tuned["general"])
        tiles.append((shown(change, error, "+.3f"), "forgetting: change of loss on general text"))
    if contents.judged:
        tiles.append((f"{contents.judged['win_rate']:.0%}", "win rate before a judge, ties half"))
    return tiles


def _state(contents: Contents) -> str:
    """The state of each stage, with the command for those that are missing."""
    rows = []
    for folder, name, command in STAGES:
        written = str((contents.manifests.get(folder) or {}).get("written", ""))
        state = contents.old.get(folder, "made") if contents.has(folder) else f"not made: {command} CONFIG=..."
        rows.append((name, state, written[:16].replace("T", " ")))
    return f"<h3>What there is</h3>{table(('stage', 'state', 'when (UTC)'), rows)}"


def data(contents: Contents) -> str:
    """The charts of the data report, from its numbers."""
    if contents.data is None:
        return f"<p>{contents.missing('dataset', 'No data')}</p>"
    numbers = dict(contents.data)
    drawn = Sections(ReportData(numbers, [], [], {}, {}), numbers.get("verbs") or {})
    html = drawn.overview() + drawn.lengths() + drawn.contents()
    more = drawn.sources() + drawn.rules() + (drawn.verbs() if numbers.get("verbs") else "")
    return (
        f"{html}<details><summary>Sources, rules and verbs</summary>{more}</details>"
        "<p class=soft>The rows themselves, duplicates and test questions are in the data report, the page in the "
        "run's folder <code>report</code>.</p>"
    )


def planned(contents: Contents) -> str:
    """The arithmetic of the config, as `make plan` prints it."""
    train = contents.counts("tokens").get("train") or {}
    counted = train if {"rows", "tokens"} <= train.keys() else None
    try:
        text = lines(contents.config, plan(contents.config, counted))
    except UserError as error:
        return f"<p>It cannot be worked out here: {escape(without_folders(error.what, contents))}.</p>"
    return f'<pre class="scroll" tabindex="0">{escape(without_folders(chr(10).join(text), contents))}</pre>'


def without_folders(text: str, contents: Contents) -> str:
    """The text without this machine's folder of the base."""
    base = contents.config.model.base
    return text.replace(base, contents.base) if base else text


def training(contents: Contents) -> str:
    """Charts, facts, and answers of the model during training."""
    lines = contents.metrics
    counts = contents.counts("adapter")
    if not contents.has("adapter") and not lines:
        return f"<p>{contents.missing('adapter', 'Not trained')}</p>"
    if contents.config.adapter.method == "none" and not lines:
        return "<p>Nothing is trained: adapter.method is none.</p>"
    note = ""
    if not contents.has("adapter"):
        last = max(m["step"] for m in lines)
        note = f"<p>Not finished: step {last:,} is the last one here. <code>make train CONFIG=...</code> goes on.</p>"
    steps = [m for m in lines if "loss" in m]
    figures = ""
    if lines:
        figures = Figure(partial(loss_chart, lines), "Nats a labelled token.", *_evaluations(lines)).html()
    if steps:
        figures += Figure(partial(curves.learning_rate, lines)).html()
        figures += Figure(partial(curves.speed, lines), "Of the rows themselves, without padding.").html()
    return note + figures + _facts(contents, counts, steps) + _answers_so_far(lines)


def _evaluations(lines: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table below the loss chart: every periodic evaluation, with the training loss of its step."""
    losses = {m["step"]: m["loss"] for m in lines if "loss" in m}
    rows = []
    for line in (m for m in lines if "val_loss" in m or "general_loss" in m):
        values = losses.get(line["step"]), line.get("val_loss"), line.get("general_loss")
        rows.append((f"{line['step']:,}", *("" if v is None else f"{v:.4f}" for v in values)))
    return ("#step", "#training", "#held-out rows", "#general text"), rows


def _facts(contents: Contents, counts: dict[str, Any], steps: list[dict[str, Any]]) -> str:
    rows = []
    if steps:
        tokens, seconds = sum(m.get("tokens", 0) for m in steps), sum(m.get("seconds", 0) for m in steps)
        rows += [("steps", f"{len(steps):,}"), ("epochs", f"{steps[-1].get('epoch', 0):g}")]
        rows += [("tokens", f"{tokens:,}, {sum(m.get('learnt', 0) for m in steps):,} of them with loss")]
        rows += [("tokens a second", f"{tokens / seconds:,.0f}")] if seconds else []
        spikes = [m for m in steps if "spike" in m]
        rows += [("spikes of the loss", ", ".join(f"step {m['step']:,}" for m in spikes[:20]) or "none")]
    names = {
        "train_seconds": "seconds", "peak_gib": "peak memory, GiB", "device": "device", "dtype": "arithmetic",
        "path": "path", "processes": "processes", "micro_tokens": "tokens at once, at most",
        "trained_parameters": "parameters trained", "parameters": "parameters in all",
    }  # fmt: skip
    for key, name in names.items():
        if key in counts:
            value = counts[key]
            rows.append((name, f"{value:,}" if isinstance(value, (int, float)) else str(value)))
    return f"<h3>Facts</h3>{table(('', ''), rows)}" if rows else ""


def _answers_so_far(lines: list[dict[str, Any]]) -> str:
    """Answers to one held-out question at each periodic evaluation."""
    samples = [(m["step"], m["samples"][0]) for m in lines if m.get("samples")]
    if not samples:
        return ""
    asked = samples[0][1]
    rows = [(f"{step:,}", shorten(str(answer["said"]), 300)) for step, answer in samples[:40]]
    lead = (
        f"<h3>Answers during training</h3><p class=soft>To: {escape(shorten(asked['instruction'], 300))} "
        f"Expected: {escape(shorten(asked['expected'], 300))}</p>"
    )
    return lead + table(("#step", "answer"), rows)


def duration(seconds: float) -> str:
    """Two units at most: 45 s, 2 min 25 s, 3 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
