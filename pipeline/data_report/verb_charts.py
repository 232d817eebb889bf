"""The section on root verbs and their nouns: a sunburst, or a table where it would cover too few of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.data_report import findings
from pipeline.data_report.charts import word
from pipeline.data_report.numbers import share
from pipeline.data_report.sunburst import sunburst
from pipeline.data_report.verbs import LANGUAGES
from pipeline.pages.figure import Rows, number, table
from pipeline.pages.phrases import Phrase, html_of, joined, labelled, phrase

COVERED = 0.2  # share of the parsed rows below which a picture would look as if it spoke for all


def numbers_of(entry: Mapping[str, Any]) -> tuple[Sequence[str], Rows]:
    """Head and rows of the table of verbs and their nouns. entry: of one language, or of one set of instructions."""
    rows = [
        (v["verb"], f"{v['rows']:,}", ", ".join(f"{o['object']} {o['rows']:,}" for o in v["objects"]))
        for v in entry["verbs"]
    ]
    return (phrase("head-verb"), number(word("rows")), phrase("head-nouns")), rows


def html(figure: Callable[..., str], language: str, entry: Mapping[str, Any]) -> str:
    """The chart of one language. figure: makes a chart with its table, as `Sections` does."""
    name, parsed = labelled(LANGUAGES[language]), entry["parsed"]
    heading = f"<h3>{html_of(phrase('verbs-title', language=name))}</h3>"
    if entry.get("missing"):
        return f"{heading}<p>{html_of(entry['missing'])}</p>"
    if not entry["verbs"]:
        return f"{heading}<p>{html_of(phrase('verbs-none', parsed=f'{parsed:,}'))}</p>"
    head, rows = numbers_of(entry)
    if covered(entry) < COVERED:
        warning = phrase("verbs-few", share=share(entry["with_object"], parsed))
        note = f'<ul class="warnings"><li>{html_of(warning)}</li></ul>'
        counted = f"<p class=soft>{html_of(_sample(entry, language))}</p>"
        return f'<div class="few-verbs" id="verbs-{language}">{heading}{note}{counted}{table(head, rows)}</div>'
    in_rings = sum(o["rows"] for v in entry["verbs"] for o in v["objects"])
    rings = phrase("verbs-rings", n=len(entry["verbs"]), shown=share(in_rings, parsed))
    note = joined([_sample(entry, language), rings])
    draw = partial(
        sunburst,
        entry,
        name=f"sunburst-{language}",
        title=findings.verbs(entry, language),
        note=note,
        language=language,
    )
    return figure(lambda width: draw(width=width), "", head, rows)


def covered(entry: Mapping[str, Any]) -> float:
    """Share of the parsed rows that have a root verb with a noun."""
    return float(entry["with_object"] / entry["parsed"]) if entry["parsed"] else 0.0


def _sample(entry: Mapping[str, Any], language: str) -> Phrase:
    """How many rows were parsed, and what counts."""
    parsed, rows = entry["parsed"], entry["rows"]
    drawn = phrase("verbs-drawn" if parsed < rows else "verbs-all", parsed=f"{parsed:,}", rows=f"{rows:,}")
    return joined([drawn, phrase(f"verbs-counted-{language}", share=share(entry["with_object"], parsed))])
