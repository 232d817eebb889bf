"""Rows on the page as escaped HTML: examples of rules, groups of duplicates, benchmark questions, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data_report.samples import Sample, shown_texts
from pipeline.data_report.verbs import LANGUAGES
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.pages.phrases import html_of, joined, labelled, phrase, rule_text
from pipeline.pages.rows import article, field, fields, row_box, text_block
from pipeline.pages.text import as_text, difference, escape, overlap, shorten

IN_GROUP = 4  # dropped rows shown of a group of duplicates
SHORT = 600  # characters of a text in a group
ACTIONS = ("rejected", "fixed", "flagged")


def rules(rule_counts: Sequence[Mapping[str, Any]]) -> str:
    """A line for each rule that acted, with its examples folded below."""
    return "".join(_rule(rule) for rule in rule_counts)


def _rule(rule: Mapping[str, Any]) -> str:
    counts = [(action, int(rule[action])) for action in ACTIONS if rule.get(action)]
    if rule["rule"] in LEFT_OUT:
        counts = [("left-out" if action == "rejected" else action, n) for action, n in counts]
    done = joined((joined([f"{n:,}", phrase(f"word-{action}")]) for action, n in counts), ", ")
    sources = ", ".join(f"{path} {n:,}" for path, n in (rule.get("by_source") or {}).items() if n)
    examples = rule.get("examples") or ()
    nothing = f"<p class=soft>{html_of(phrase('no-example'))}</p>"
    shown = "".join(_example(example, rule["rule"] in LEFT_OUT) for example in examples) or nothing
    what = html_of(rule_text(rule["rule"], str(rule.get("what") or "")))
    where = f'<p class="soft">{html_of(phrase("by-source", sources=sources))}</p>' if sources else ""
    return (
        f'<details class="rule" id="rule-{escape(rule["rule"])}"><summary><b>{escape(rule["rule"])}</b>'
        f'<span class="did">{html_of(done)}</span><span class="what">{what}</span></summary>'
        f"<div>{where}{shown}</div></details>"
    )


def _example(example: Mapping[str, Any], is_left_out: bool) -> str:
    """What a rule did to one row: both versions side by side where it changed something."""
    before, after = _texts(example.get("before")), _texts(example.get("after"))
    if example.get("action") == "fixed" or (before and after):
        body = ""
        for name in dict.fromkeys([*before, *after]):
            old, new = difference(before.get(name, ""), after.get(name, ""))
            left = _block(phrase("before", name=name), old)
            empty = f"<i class=soft>{html_of(phrase('empty'))}</i>"
            body += f'<div class="two">{left}{_block(phrase("after", name=name), new or empty)}</div>'
    else:
        body = fields(before or _texts(example.get("row")))
    action = str(example.get("action") or "")
    known = action in ACTIONS
    key = "left-out" if is_left_out and action == "rejected" else action
    meta = [phrase(f"word-{key}") if known else action, example.get("place")]
    return row_box(meta, example.get("reason") or "", body)


def cluster(group: Mapping[str, Any]) -> str:
    """A kept row and those that were dropped for it, with what differs marked."""
    kept = group.get("kept") or {}
    rows = group.get("rows") or ()
    size = int(group.get("size") or len(rows) + 1)
    body = row_box([phrase("word-kept"), kept.get("place"), kept.get("source")], "", fields(_texts(kept), SHORT))
    for row in rows[:IN_GROUP]:
        kind, alike = str(row.get("kind", "")), row.get("similarity")
        reason = [phrase("duplicate", kind=labelled(kind))]
        if alike is not None and kind != "exact":
            reason.append(phrase("similarity", value=f"{float(alike):.2f}"))
        meta = [phrase("word-rejected"), row.get("place"), row.get("source")]
        body += row_box(meta, joined(reason, ", "), _compared(kept, row.get("row")))
    more = size - 1 - len(rows[:IN_GROUP])
    note = f'<p class="soft">{html_of(phrase("more-in-group", n=f"{more:,}"))}</p>' if more > 0 else ""
    kinds = "\n".join(sorted({str(row.get("kind")) for row in rows}))
    return article({"kind": kinds}, f'<p class="soft">{html_of(phrase("size-rows", size=f"{size:,}"))}</p>{body}{note}')


def _compared(kept: Mapping[str, Any], row: Any) -> str:
    """The fields of a dropped row, with marks where the kept row differs."""
    texts, others = _texts(row), _texts(kept)
    html, same = [], f'<i class="soft">{html_of(phrase("the-same"))}</i>'
    for name, text in texts.items():
        _, new = difference(shorten(others.get(name, ""), SHORT), shorten(text, SHORT))
        if text or others.get(name):
            html.append(_block(name, new if others.get(name) != text else same))
    return "".join(html)


def hit(example: Mapping[str, Any]) -> str:
    """A benchmark's question beside the row that holds it, with what they share marked."""
    texts = _texts(example.get("row"))
    whole = "\n\n".join(text for text in texts.values() if text)
    question, row = overlap(str(example.get("question") or ""), whole)
    asked = phrase("question-of", name=str(example.get("benchmark") or "?"))
    score = phrase("share-there", share=f"{float(example['score']):.0%}") if example.get("score") is not None else ""
    body = f'<div class="two">{_block(asked, question)}{_block(phrase("word-row"), row)}</div>'
    names = {name: str(example.get(name) or "") for name in ("benchmark", "source")}
    return article(names, row_box([example.get("place"), example.get("source")], score, body))


def sample(row: Sample, unit: str) -> str:
    """A sampled row with its facts. unit: of its size, tokens or characters."""
    sizes = {"n": f"{row.size[0]:,}", "answer": f"{row.size[1]:,}"} if row.size else {}
    size = phrase("sample-size", unit=unit, **sizes) if sizes else ""
    meta = [phrase(f"word-{row.split}"), row.source, row.language, row.task, row.place, size]
    names = {"split": row.split, "source": row.source, "language": row.language, "rule": "\n".join(row.rules)}
    language = row.language if row.language in LANGUAGES else ""
    texts = {name: as_text(text) for name, text in row.texts.items() if text is not None}
    return article(names, row_box(meta, "; ".join(row.notes), fields(texts, language=language)))


def _block(name: str, html: str) -> str:
    return field(name, text_block(html))


def _texts(row: Any) -> dict[str, str]:
    """A row of any form as texts by field name."""
    if row is None or row == "":
        return {}
    if isinstance(row, Mapping):
        chosen = shown_texts(row) or dict(list(row.items())[:12])
        return {str(name)[:80]: as_text(value) for name, value in chosen.items() if value is not None}
    return {"row": as_text(row)}
