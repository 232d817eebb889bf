"""The rows on the page as escaped HTML: examples of rules, groups of duplicates, hits of benchmarks, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data_report.samples import FIELDS, Sample
from pipeline.pages.rows import article, field, fields, row_box, text_block
from pipeline.pages.text import as_text, difference, escape, overlap, shorten

IN_GROUP = 4  # rows shown of a group of duplicates
SHORT = 600  # characters of a text in a group
ACTIONS = ("rejected", "fixed", "flagged")


def rules(found: Sequence[Mapping[str, Any]]) -> str:
    """A line for each rule that did something; its examples unfold."""
    return "".join(_rule(rule) for rule in found)


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


def cluster(found: Mapping[str, Any]) -> str:
    """A kept row and those that were dropped for it, with what differs marked."""
    kept = found.get("kept") or {}
    rows = found.get("rows") or ()
    size = int(found.get("size") or len(rows) + 1)
    body = row_box(["kept", kept.get("place"), kept.get("source")], None, fields(_texts(kept), SHORT))
    for row in rows[:IN_GROUP]:
        kind, alike = row.get("kind", ""), row.get("similarity")
        said = f"{kind} duplicate" + (
            f", similarity {float(alike):.2f}" if alike is not None and kind != "exact" else ""
        )
        body += row_box(["rejected", row.get("place"), row.get("source")], said, _compared(kept, row.get("row")))
    more = size - 1 - len(rows[:IN_GROUP])
    note = f'<p class="soft">and {more:,} more rows, in duplicates.jsonl</p>' if more > 0 else ""
    kinds = "\n".join(sorted({str(row.get("kind")) for row in rows}))
    return article({"kind": kinds}, f'<p class="soft">{size:,} rows</p>{body}{note}')


def _compared(kept: Mapping[str, Any], row: Any) -> str:
    """The fields of a dropped row; what the kept one has not is marked."""
    texts, others = _texts(row), _texts(kept)
    parts = []
    for name, text in texts.items():
        _, new = difference(shorten(others.get(name, ""), SHORT), shorten(text, SHORT))
        if text or others.get(name):
            parts.append(_block(name, new if others.get(name) != text else '<i class="soft">the same</i>'))
    return "".join(parts)


def hit(found: Mapping[str, Any]) -> str:
    """A benchmark's question beside the row that holds it, with what they share marked."""
    texts = _texts(found.get("row"))
    whole = "\n\n".join(text for text in texts.values() if text)
    question, row = overlap(str(found.get("question") or ""), whole)
    asked = f"question of {found.get('benchmark') or '?'}"
    score = f"{float(found['score']):.0%} of the question is there" if found.get("score") is not None else ""
    body = f'<div class="two">{_block(asked, question)}{_block("row", row)}</div>'
    names = {name: str(found.get(name) or "") for name in ("benchmark", "source")}
    return article(names, row_box([found.get("place"), found.get("source")], score, body))


def sample(found: Sample, unit: str) -> str:
    """One row with all that is known of it."""
    size = f"{found.size[0]:,} {unit}, {found.size[1]:,} of them in the answer" if found.size else None
    meta = [found.part, found.source, found.language, found.task, found.place, size]
    names = {"part": found.part, "source": found.source, "language": found.language, "rule": "\n".join(found.rules)}
    return article(names, row_box(meta, "; ".join(found.notes), fields(_texts(found.texts))))


def _block(name: str, html: str) -> str:
    return field(name, text_block(html))


def _texts(row: Any) -> dict[str, str]:
    """A row in whatever form it was written down, as texts by field name."""
    if row is None or row == "":
        return {}
    if isinstance(row, Mapping):
        chosen = {name: row[name] for name in FIELDS if name in row} or dict(list(row.items())[:12])
        return {str(name)[:80]: as_text(value) for name, value in chosen.items() if value is not None}
    return {"row": as_text(row)}
