"""One raw row becomes an `Example`, or is rejected with a reason."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.example import Example
from pipeline.dataset.read.raw import Raw

THREAD = re.compile(r"[0-9a-f]{16}")
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not go on: the rule that stopped it, why, where it stood, and what it was."""

    rule: str
    reason: str
    place: str
    source: str
    row: Any

    def as_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "reason": self.reason,
            "place": self.place,
            "source": self.source,
            "row": self.row,
        }


def check(raw: Raw, source: Source, label: str = "") -> Example | Rejected:
    """Checks the types of a row in Alpaca form; leaves instruction, input and output byte for byte.

    label: how the source is called in the row, if not by its path.
    An empty output passes: whether it may stay is a rule of cleaning.
    """
    row = raw.value
    label = label or source.path

    def no(rule: str, reason: str) -> Rejected:
        return Rejected(rule, reason, raw.place, label, row)

    if raw.error:
        return no(raw.rule, raw.error)
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
    task, thread = row.get("task"), row.get("thread")
    texts["task"] = task.strip() if isinstance(task, str) else ""
    for name, value in texts.items():
        if SURROGATE.search(value):
            return no("invalid-utf-8", f"{name} is not UTF-8 (invalid bytes, or half of a \\ud800 pair)")
    if not texts["instruction"].strip():
        return no("instruction-empty", "instruction is empty")
    texts["task"] = texts["task"] or source.task
    if isinstance(thread, str) and THREAD.fullmatch(thread):  # as `conversation.py` makes it
        texts["thread"] = thread
    return Example.of(**texts, source=label, exact=source.exact or source.path == "families")


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
        bytes: "binary data",
    }
    if isinstance(value, datetime.date):  # pandas brings classes of its own
        return "a date"
    return names.get(type(value), type(value).__name__)
