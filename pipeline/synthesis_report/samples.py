"""Rows to read: kept ones, drawn by content hash, and a few rejected drafts of every rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data_report.rows import HashSample, content_hash
from pipeline.run.files import json_lines

KEPT = 60
PER_RULE = 8
TEXTS = ("instruction", "input", "output", "raw")


@dataclass(frozen=True)
class Sample:
    """A row as the page shows it. number: line in its file. rule: that rejected it; empty: it was kept."""

    number: int
    texts: dict[str, str]
    rule: str = ""
    reason: str = ""
    model: str = ""
    time: str = ""
    task: str = ""


def samples(folder: Path) -> list[Sample]:
    """Kept rows, then rejected drafts by rule; the same ones on every machine."""
    kept: HashSample[Sample] = HashSample(KEPT)
    for number, row in enumerate(json_lines(folder / "rows.jsonl"), 1):
        kept.add(content_hash([row["instruction"], row["input"], row["output"]]), _sample(number, row))
    by_rule: defaultdict[str, HashSample[Sample]] = defaultdict(lambda: HashSample(PER_RULE))
    for number, row in enumerate(json_lines(folder / "rejected.jsonl"), 1):
        by_rule[str(row["rule"])].add(content_hash([number, row["instruction"]]), _sample(number, row))
    return [*kept.drawn(), *(sample for _, group in sorted(by_rule.items()) for sample in group.drawn())]


def _sample(number: int, row: Mapping[str, Any]) -> Sample:
    made = row.get("generated") or {}
    return Sample(
        number, {name: str(row[name]) for name in TEXTS if row.get(name)}, str(row.get("rule", "")),
        str(row.get("reason", "")), str((made.get("teacher") or {}).get("model", "")), str(made.get("time", ""))[:16],
        str(row.get("task", "")),
    )  # fmt: skip
