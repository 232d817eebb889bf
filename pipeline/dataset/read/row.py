"""A row as it was read (`RawRow`), and its check: it becomes an `Example` or is rejected with a reason."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.example import Example
from pipeline.dataset.turn import Turn

THREAD = re.compile(r"[0-9a-f]{16}")
SURROGATE = re.compile("[\ud800-\udfff]")
KINDS = {
    type(None): "null", bool: "true/false", int: "a number", float: "a number", Decimal: "a number", str: "text",
    list: "a list", dict: "an object", bytes: "binary data",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before it is checked: its value (None if it could not be parsed) and its place (`file:line`).

    A row that cannot be used has an `error` (the reason) and a `rule` (the name under which it is counted).
    """

    value: Any
    place: str
    error: str = ""
    rule: str = "not-json"

    def rejected(self, rule: str, reason: str, place: str = "") -> RawRow:
        """The same row with the reason why it cannot be used."""
        return RawRow(self.value, place or self.place, reason, rule)


class Whole(dict[str, Any]):
    """The value of a row that keeps what a chat template renders: instruction, input, output, task, and `system`.

    Of a whole conversation `turns` too: OpenAI messages, checked in `whole.py`; and the `tools` that these may call.
    """


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected row: the rule, the reason, its place, the label of its source, and its value."""

    rule: str
    reason: str
    place: str
    source: str
    row: Any

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def check(raw: RawRow, source: Source, label: str = "") -> Example | Rejected:
    """Checks the types of a row in Alpaca form, or of a whole conversation; all texts stay byte for byte.

    An empty output passes: a cleaning rule decides on it.

    Args:
        label: the name of the source in the row; by default its path.
    """
    row = raw.value
    label = label or source.path

    def no(rule: str, reason: str) -> Rejected:
        return Rejected(rule, reason, raw.place, label, row)

    if raw.error:
        return no(raw.rule, raw.error)
    if not isinstance(row, dict):
        return no("not-an-object", f"a row is an object, this is {kind_of_value(row)}")
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
            return no(f"{name}-not-text", f"{name} is {kind_of_value(value)}, not text")
        texts[name] = value
    task, thread = row.get("task"), row.get("thread")
    texts["task"] = task.strip() if isinstance(task, str) else ""
    turns = list(map(Turn.of, row.get("turns", ()))) if isinstance(row, Whole) else []
    if isinstance(row, Whole):
        texts["system"] = row.get("system", "")
    spoken = {f"turn {number}": turn.content for number, turn in enumerate(turns, 1)}
    for name, value in (texts | spoken).items():
        if SURROGATE.search(value):
            return no("invalid-utf-8", f"{name} is not UTF-8 (invalid bytes, or half of a \\ud800 pair)")
    if not texts["instruction"].strip():
        return no("instruction-empty", "instruction is empty")
    texts["task"] = texts["task"] or source.task
    exact = source.exact or source.path == "families"
    if turns:
        more = {"system": texts["system"], "tools": row.get("tools", ()), "task": texts["task"], "exact": exact}
        return Example.whole(turns, source=label, **more)
    if isinstance(thread, str) and THREAD.fullmatch(thread):  # made in conversation.py
        texts["thread"] = thread
    return Example.of(**texts, source=label, exact=exact)


def kind_of_value(value: Any) -> str:
    """The JSON type of a value in words."""
    if isinstance(value, datetime.date):  # pandas has subclasses of it
        return "a date"
    return KINDS.get(type(value), type(value).__name__)
