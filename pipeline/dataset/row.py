"""One raw row becomes an `Example`, or is rejected with a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipeline.config import Source
from pipeline.dataset.source import Raw
from pipeline.record import Example

SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not go on: the rule that stopped it, why, where it stood, and what it was."""

    rule: str
    reason: str
    place: str
    row: Any

    def as_dict(self) -> dict[str, Any]:
        return {"rule": self.rule, "reason": self.reason, "place": self.place, "row": self.row}


def check(raw: Raw, source: Source, keep_empty_output: bool) -> Example | Rejected:
    """Checks types and emptiness; leaves every text byte for byte as it was."""
    row = raw.value

    def no(rule: str, reason: str) -> Rejected:
        return Rejected(rule, reason, raw.place, row)

    if raw.error:
        return no("not-json", raw.error)
    if not isinstance(row, dict):
        return no("not-an-object", f"a row is an object, this is {_kind(row)}")
    for name in ("instruction", "output"):
        if name not in row:
            fields = ", ".join(repr(key[:40]) for key in list(row)[:6]) or "none"
            return no(f"{name}-missing", f"no field {name!r} (fields: {fields})")
    texts: dict[str, str] = {}
    for name in ("instruction", "input", "output"):
        value = row.get(name)
        if value is None and name == "input":
            value = ""
        if not isinstance(value, str):
            return no(f"{name}-not-text", f"{name} is {_kind(value)}, not text")
        texts[name] = value
    task = row.get("task")
    texts["task"] = task if isinstance(task, str) else ""
    for name, value in texts.items():
        if SURROGATE.search(value):
            return no("invalid-utf-8", f"{name} is not UTF-8 (invalid bytes, or half of a \\ud800 pair)")
    if not texts["instruction"].strip():
        return no("instruction-empty", "instruction is empty")
    if not texts["output"].strip() and not keep_empty_output:
        return no("output-empty", "output is empty")
    return Example.of(**texts, source=source.path, exact=source.exact or source.path == "families")


def _kind(value: Any) -> str:
    names = {
        type(None): "null",
        bool: "true/false",
        int: "a number",
        float: "a number",
        Decimal: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
