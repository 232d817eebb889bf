"""The first sections of a run's page: what it is, its data, what was planned, and how the training went."""

from __future__ import annotations

from functools import partial
from typing import Any

from pipeline.config.method_rules import description
from pipeline.data_report.numbers import Found
from pipeline.data_report.sections import Sections
from pipeline.evaluation.general import forgetting
from pipeline.evaluation.standard_error import shown
from pipeline.pages.figure import Figure, table
from pipeline.pages.text import escape, shorten
from pipeline.run.errors import UserError
from pipeline.run_report import curves
from pipeline.run_report.parts import PARTS, Parts
from pipeline.training.metrics import loss_chart
from pipeline.training.plan import lines, plan


def summary(parts: Parts, warnings: list[str]) -> str:
    """One sentence, the headline numbers, what there is, and what to beware of."""
    config, trained = parts.config, parts.counts("adapter")
    rows = parts.counts("tokens").get("train", {}).get("rows") or parts.counts("dataset").get("train", 0)
    size = parts.trained_with("batch_size")
    steps = f", {trained['steps']:,} steps of {size} rows" if trained.get("steps") and size else ""
    how = description(config.adapter)
    lead = (
        f"<p><b>{escape(parts.base)}</b> with {rows:,} instructions in the template "
        f"<b>{escape(config.prompt.template)}</b>: {escape(how)}{steps}.</p>"
    )
    tiles = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in headline(parts)
    )
    alarm = f'<ul class="warnings">{"".join(f"<li>{w}</li>" for w in warnings)}</ul>' if warnings else ""
    return f'{lead}<div class="tiles pairs">{tiles}</div>{alarm}{_state(parts)}'


def headline(parts: Parts) -> list[tuple[str, str]]:
    """Numbers for the top, of what there is."""
    found = []
    trained, results = parts.counts("adapter"), parts.results
    if trained.get("trained_parameters"):
        share = trained["trained_parameters"] / trained["parameters"] if trained.get("parameters") else 0
        found.append((f"{trained['trained_parameters']:,}", f"parameters trained{f', {share:.2%}' if share else ''}"))
    if trained.get("train_seconds"):
        found.append((duration(trained["train_seconds"]), f"of training on {trained.get('device', '?')}"))
    base, tuned = results.get("base", {}), results.get("tuned", {})
    if "val" in base and "val" in tuned:
        found.append((f"{base['val']['loss']:.2f} → {tuned['val']['loss']:.2f}", "held-out loss, base → tuned"))
        if "exact" in tuned["val"]:
            found.append((f"{base['val']['exact']:.0%} → {tuned['val']['exact']:.0%}", "exact match, held-out rows"))
    elif looks := [m["val_loss"] for m in parts.metrics if "val_loss" in m]:
        found.append((f"{looks[0]:.2f} → {looks[-1]:.2f}", "held-out loss while training"))
    if "exact" in base.get("holdout", {}) and "exact" in tuned.get("holdout", {}):
        shares = f"{base['holdout']['exact']:.0%} → {tuned['holdout']['exact']:.0%}"
        found.append((shares, "exact match, tasks never trained on"))
    if base.get("general") and tuned.get("general"):
        change, error = forgetting(base["general"], tuned["general"])
        found.append((shown(change, error, "+.3f"), "forgetting: change of loss on general text"))
    if parts.judged:
        found.append((f"{parts.judged['win_rate']:.0%}", "win rate before a judge, ties half"))
    return found


def _state(parts: Parts) -> str:
    """What there is and what is not, with the command."""
    rows = []
    for folder, what, command in PARTS:
        written = str((parts.manifests.get(folder) or {}).get("written", ""))
        state = parts.old.get(folder, "made") if parts.has(folder) else f"not made: {command} CONFIG=..."
        rows.append((what, state, written[:16].replace("T", " ")))
    return f"<h3>What there is</h3>{table(('part', 'state', 'when (UTC)'), rows)}"


def data(parts: Parts) -> str:
    """The charts of the data report, from its numbers."""
    if parts.data is None:
        return f"<p>{parts.missing('dataset', 'No data')}</p>"
    numbers = dict(parts.data)
    drawn = Sections(Found(numbers, [], [], {}, {}), numbers.get("verbs") or {})
    shown = drawn.overview() + drawn.lengths() + drawn.contents()
    more = drawn.sources() + drawn.rules() + (drawn.verbs() if numbers.get("verbs") else "")
    return (
        f"{shown}<details><summary>Sources, rules and verbs</summary>{more}</details>"
        "<p class=soft>The rows themselves, duplicates and test questions are in the data report, the page in the "
        "run's folder <code>report</code>.</p>"
    )


def planned(parts: Parts) -> str:
    """The arithmetic of the config."""
    train = parts.counts("tokens").get("train") or {}
    counted = train if {"rows", "tokens"} <= train.keys() else None
    try:
        said = lines(parts.config, plan(parts.config, counted))
    except UserError as error:
        return f"<p>It cannot be worked out here: {escape(without_folders(error.what, parts))}.</p>"
    return f'<pre class="scroll" tabindex="0">{escape(without_folders(chr(10).join(said), parts))}</pre>'


def without_folders(text: str, parts: Parts) -> str:
    """The text without this machine's folder of the base."""
    base = parts.config.model.base
    return text.replace(base, parts.base) if base else text


def training(parts: Parts) -> str:
    """Curves, facts, and what the model said on the way."""
    found = parts.metrics
    counts = parts.counts("adapter")
    if not parts.has("adapter") and not found:
        return f"<p>{parts.missing('adapter', 'Not trained')}</p>"
    if parts.config.adapter.method == "none" and not found:
        return "<p>Nothing is trained: adapter.method is none.</p>"
    note = ""
    if not parts.has("adapter"):
        last = max(m["step"] for m in found)
        note = f"<p>Not finished: step {last:,} is the last one here. <code>make train CONFIG=...</code> goes on.</p>"
    steps = [m for m in found if "loss" in m]
    figures = ""
    if found:
        figures = Figure(partial(loss_chart, found), "Nats a labelled token.", *_looks(found)).html()
    if steps:
        figures += Figure(partial(curves.learning_rate, found)).html()
        figures += Figure(partial(curves.speed, found), "Of the rows themselves, without padding.").html()
    return note + figures + _facts(parts, counts, steps) + _said(found)


def _looks(found: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The numbers under the curve: every look at the model, with the loss of its step."""
    at = {m["step"]: m["loss"] for m in found if "loss" in m}
    rows = []
    for line in (m for m in found if "val_loss" in m or "general_loss" in m):
        values = at.get(line["step"]), line.get("val_loss"), line.get("general_loss")
        rows.append((f"{line['step']:,}", *("" if v is None else f"{v:.4f}" for v in values)))
    return ("#step", "#training", "#held-out rows", "#general text"), rows


def _facts(parts: Parts, counts: dict[str, Any], steps: list[dict[str, Any]]) -> str:
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


def _said(found: list[dict[str, Any]]) -> str:
    """Answers to one held-out question, look by look."""
    looks = [(m["step"], m["samples"][0]) for m in found if m.get("samples")]
    if not looks:
        return ""
    asked = looks[0][1]
    rows = [(f"{step:,}", shorten(str(said["said"]), 300)) for step, said in looks[:40]]
    lead = (
        f"<h3>What it said on the way</h3><p class=soft>To: {escape(shorten(asked['instruction'], 300))} "
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
