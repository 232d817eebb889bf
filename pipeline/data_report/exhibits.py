"""Rows on the page as escaped HTML: examples of rules, groups of duplicates, benchmark questions, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data_report.samples import FIELDS, Sample
from pipeline.pages.rows import article, field, fields, row_box, text_block
from pipeline.pages.text import as_text, difference, escape, overlap, shorten

IN_GROUP = 4  # dropped rows shown of a group of duplicates
SHORT = 600  # characters of a text in a group
ACTIONS = ("rejected", "fixed", "flagged")


def rules(rule_counts: Sequence[Mapping[str, Any]]) -> str:
    """A line for each rule that acted, with its examples folded below."""
    return "".join(_rule(rule) for rule in rule_counts)


def _rule(rule: Mapping[str, Any]) -> str:
    done = ", ".join(f"{int(rule[a]):,} {a}" for a in ACTIONS if rule.get(a))
    sources = ", ".join(f"{escape(path)} {n:,}" for path, n in (rule.get("by_source") or {}).items() if n)
    examples = rule.get("examples") or ()
    shown = "".join(_example(example) for example in examples) or "<p class=soft>No example was written down.</p>"
    where = f'<p class="soft">By source: {sources}</p>' if sources else ""
    return (
        f'<details class="rule" id="rule-{escape(rule["rule"])}"><summary><b>{escape(rule["rule"])}</b>'
        f'<span class="did">{done}</span><span>{escape(rule.get("what") or "")}</span></summary>'
        f"<div>{where}{shown}</div></details>"
    )


def _example(example: Mapping[str, Any]) -> str:
    """What a rule did to one row: both versions side by side where it changed something."""
    before, after = _texts(example.get("before")), _texts(example.get("after"))
    if example.get("action") == "fixed" or (before and after):
        body = ""
        for name in dict.fromkeys([*before, *after]):
            old, new = difference(before.get(name, ""), after.get(name, ""))
            left = _block(f"{name} before", old)
            body += f'<div class="two">{left}{_block(f"{name} after", new or "<i class=soft>(empty)</i>")}</div>'
    else:
        body = fields(before or _texts(example.get("row")))
    return row_box([example.get("action"), example.get("place")], example.get("reason"), body)


def cluster(group: Mapping[str, Any]) -> str:
    """A kept row and those that were dropped for it, with what differs marked."""
    kept = group.get("kept") or {}
    rows = group.get("rows") or ()
    size = int(group.get("size") or len(rows) + 1)
    body = row_box(["kept", kept.get("place"), kept.get("source")], None, fields(_texts(kept), SHORT))
    for row in rows[:IN_GROUP]:
        kind, alike = row.get("kind", ""), row.get("similarity")
        reason = f"{kind} duplicate" + (
            f", similarity {float(alike):.2f}" if alike is not None and kind != "exact" else ""
        )
        body += row_box(["rejected", row.get("place"), row.get("source")], reason, _compared(kept, row.get("row")))
    more = size - 1 - len(rows[:IN_GROUP])
    note = f'<p class="soft">and {more:,} more rows, in duplicates.jsonl</p>' if more > 0 else ""
    kinds = "\n".join(sorted({str(row.get("kind")) for row in rows}))
    return article({"kind": kinds}, f'<p class="soft">{size:,} rows</p>{body}{note}')


def _compared(kept: Mapping[str, Any], row: Any) -> str:
    """The fields of a dropped row, with marks where the kept row differs."""
    texts, others = _texts(row), _texts(kept)
    html = []
    for name, text in texts.items():
        _, new = difference(shorten(others.get(name, ""), SHORT), shorten(text, SHORT))
        if text or others.get(name):
            html.append(_block(name, new if others.get(name) != text else '<i class="soft">the same</i>'))
    return "".join(html)


def hit(example: Mapping[str, Any]) -> str:
    """A benchmark's question beside the row that holds it, with what they share marked."""
    texts = _texts(example.get("row"))
    whole = "\n\n".join(text for text in texts.values() if text)
    question, row = overlap(str(example.get("question") or ""), whole)
    asked = f"question of {example.get('benchmark') or '?'}"
    score = f"{float(example['score']):.0%} of the question is there" if example.get("score") is not None else ""
    body = f'<div class="two">{_block(asked, question)}{_block("row", row)}</div>'
    names = {name: str(example.get(name) or "") for name in ("benchmark", "source")}
    return article(names, row_box([example.get("place"), example.get("source")], score, body))


def sample(row: Sample, unit: str) -> str:
    """A sampled row with its facts. unit: of its size, tokens or characters."""
    size = f"{row.size[0]:,} {unit}, {row.size[1]:,} of them in the answer" if row.size else None
    meta = [row.split, row.source, row.language, row.task, row.place, size]
    names = {"split": row.split, "source": row.source, "language": row.language, "rule": "\n".join(row.rules)}
    return article(names, row_box(meta, "; ".join(row.notes), fields(_texts(row.texts))))


def _block(name: str, html: str) -> str:
    return field(name, text_block(html))


def _texts(row: Any) -> dict[str, str]:
    """A row of any form as texts by field name."""
    if row is None or row == "":
        return {}
    if isinstance(row, Mapping):
        chosen = {name: row[name] for name in FIELDS if name in row} or dict(list(row.items())[:12])
        return {str(name)[:80]: as_text(value) for name, value in chosen.items() if value is not None}
    return {"row": as_text(row)}
