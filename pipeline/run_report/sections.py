"""Sections of the run report on the run: summary, data and plan."""

from __future__ import annotations

from typing import Any

from pipeline.config.method_rules import description
from pipeline.data_report.numbers import ReportData
from pipeline.data_report.sections import Sections
from pipeline.evaluation.general import forgetting
from pipeline.evaluation.scores import shown
from pipeline.pages.figure import table
from pipeline.pages.phrases import Phrase, html_of, joined, labelled, phrase
from pipeline.pages.text import escape
from pipeline.run.errors import UserError
from pipeline.run_report.contents import STAGES, Contents
from pipeline.run_report.verdict import verdict
from pipeline.training.plan import plan
from pipeline.training.plan_lines import lines


def summary(contents: Contents, warnings: list[str]) -> str:
    """The verdict, one sentence on the run, the headline numbers, the warnings, and the state of each stage."""
    found = verdict(contents.results)
    sentence = f'<p class="verdict {found.state}">{html_of(found.text)}</p>'
    tiles = "".join(f"<div><b>{html_of(value)}</b>{html_of(label)}</div>" for value, label in headline(contents))
    alarm = f'<ul class="warnings">{"".join(f"<li>{w}</li>" for w in warnings)}</ul>' if warnings else ""
    lead = f"<p>{html_of(lead_of(contents))}</p>"
    return f'{sentence}{lead}<div class="tiles pairs">{tiles}</div>{alarm}{_state(contents)}'


def lead_of(contents: Contents) -> Phrase:
    """What was trained, in one sentence."""
    config, trained = contents.config, contents.counts("adapter")
    rows = contents.counts("tokens").get("train", {}).get("rows") or contents.counts("dataset").get("train", 0)
    size = contents.trained_with("batch_size")
    steps = phrase("lead-steps", steps=f"{trained['steps']:,}", size=size) if trained.get("steps") and size else ""
    values = {"base": contents.base, "rows": f"{rows:,}", "template": config.prompt.template}
    return joined([phrase("lead", how=description(config.adapter), steps=steps, **values)])


def headline(contents: Contents) -> list[tuple[str, Phrase]]:
    """(value, label) of the numbers at the top that are known."""
    tiles: list[tuple[str, Phrase]] = []
    trained, results = contents.counts("adapter"), contents.results
    if trained.get("trained_parameters"):
        share = trained["trained_parameters"] / trained["parameters"] if trained.get("parameters") else 0
        label = phrase("tile-trained-share", share=f"{share:.2%}") if share else phrase("tile-trained")
        tiles.append((f"{trained['trained_parameters']:,}", label))
    if trained.get("train_seconds"):
        label = phrase("tile-seconds", device=trained.get("device", "?"))
        tiles.append((duration(trained["train_seconds"]), label))
    base, tuned = results.get("base", {}), results.get("tuned", {})
    if "val" in base and "val" in tuned:
        label = phrase("tile-loss", n=tuned["val"].get("rows", "?"))
        tiles.append((f"{base['val']['loss']:.2f} → {tuned['val']['loss']:.2f}", label))
        if "exact" in tuned["val"]:
            tiles.append(_exact("val", base, tuned))
    elif losses := [m["val_loss"] for m in contents.metrics if "val_loss" in m]:
        tiles.append((f"{losses[0]:.2f} → {losses[-1]:.2f}", phrase("tile-loss-training")))
    if "exact" in base.get("holdout", {}) and "exact" in tuned.get("holdout", {}):
        tiles.append(_exact("holdout", base, tuned))
    if base.get("general") and tuned.get("general"):
        change, error = forgetting(base["general"], tuned["general"])
        tiles.append((shown(change, error, "+.3f"), phrase("tile-forgetting")))
    if contents.judged:
        label = phrase("tile-win-rate", n=contents.judged.get("questions", "?"))
        tiles.append((f"{contents.judged['win_rate']:.0%}", label))
    return tiles


def _exact(split: str, base: dict[str, Any], tuned: dict[str, Any]) -> tuple[str, Phrase]:
    shares = f"{base[split]['exact']:.0%} → {tuned[split]['exact']:.0%}"
    return shares, phrase(f"tile-exact-{split}", n=tuned[split].get("answers", "?"))


def _state(contents: Contents) -> str:
    """The state of each stage, with the command for those that are missing."""
    rows = []
    for folder, name, command in STAGES:
        written = str((contents.manifests.get(folder) or {}).get("written", ""))
        state: str = phrase("state-missing", command=f"`{command} CONFIG=...`")
        if contents.has(folder):
            state = contents.old.get(folder, phrase("state-made"))
        rows.append((labelled(name), state, written[:16].replace("T", " ")))
    head = (phrase("head-stage"), phrase("head-state"), phrase("head-when"))
    return f"<h3>{html_of(phrase('what-there-is'))}</h3>{table(head, rows)}"


def data(contents: Contents) -> str:
    """The charts of the data report, from its numbers."""
    if contents.data is None:
        return f"<p>{html_of(contents.missing('dataset', 'no-data'))}</p>"
    numbers = dict(contents.data)
    drawn = Sections(ReportData(numbers, [], [], {}, {}), numbers.get("verbs") or {})
    html = drawn.overview() + drawn.lengths() + drawn.contents()
    more = drawn.sources() + drawn.rules() + (drawn.verbs() if numbers.get("verbs") else "")
    return (
        f"{_generated(contents)}{html}<details><summary>{html_of(phrase('more-data'))}</summary>{more}</details>"
        f"<p class=soft>{html_of(phrase('where-rows-are'))}</p>"
    )


def _generated(contents: Contents) -> str:
    """A sentence on rows that a teacher made for this run, with a link to their page; empty where there are none."""
    manifest = contents.run.manifest("generated")
    if manifest is None:
        return ""
    counts = manifest["counts"]
    said = phrase("generated-rows", rows=f"{counts.get('rows', 0):,}", drafts=f"{counts.get('drafts', 0):,}")
    return f'<p>{html_of(said)} <a href="generated/report.html">generated/report.html</a></p>'


def planned(contents: Contents) -> str:
    """The arithmetic of the config, as `make plan` prints it."""
    text = planned_text(contents)
    return (
        f"<p>{html_of(text)}</p>"
        if isinstance(text, Phrase)
        else (f'<pre class="scroll" tabindex="0">{escape(text)}</pre>')
    )


def planned_text(contents: Contents) -> str:
    """The same as text; a phrase where it cannot be worked out."""
    train = contents.counts("tokens").get("train") or {}
    counted = train if {"rows", "tokens"} <= train.keys() else None
    try:
        text = lines(contents.config, plan(contents.config, counted))
    except UserError as error:
        return phrase("no-plan", why=without_folders(error.what, contents))
    return without_folders("\n".join(text), contents)


def without_folders(text: str, contents: Contents) -> str:
    """The text without this machine's folder of the base."""
    base = contents.config.model.base
    return text.replace(base, contents.base) if base else text


def duration(seconds: float) -> Phrase:
    """Two units at most: 45 s, 2 min 25 s, 3 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return phrase("duration-s", s=whole)
    if whole < 3600:
        return phrase("duration-m", m=whole // 60, s=whole % 60)
    return phrase("duration-h", h=whole // 3600, m=whole % 3600 // 60)
