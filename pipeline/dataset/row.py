"""One raw row becomes an `Example`, or is rejected with a reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import Source
from pipeline.dataset.source import Raw
from pipeline.record import Example


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not go on: the rule that stopped it, why, where it stood, and what it was."""

    rule: str
    reason: str
    place: str
    row: Any

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
            return no(f"{name}-missing", f"no field {name!r} (fields: {', '.join(map(str, list(row)[:6])) or 'none'})")
    fields = {name: row.get(name) for name in ("instruction", "input", "output")}
    if fields["input"] is None:
        fields["input"] = ""
    for name, value in fields.items():
        if not isinstance(value, str):
            return no(f"{name}-not-text", f"{name} is {_kind(value)}, not text")
        if any("\ud800" <= c <= "\udfff" for c in value):
            return no("invalid-utf-8", f"{name} holds bytes that are not UTF-8")
    if not fields["instruction"].strip():
        return no("instruction-empty", "instruction is empty")
    if not fields["output"].strip() and not keep_empty_output:
        return no("output-empty", "output is empty")
    task = row.get("task")
    return Example.of(
        fields["instruction"], fields["input"], fields["output"], source=source.path,
        task=task if isinstance(task, str) else "", exact=source.exact or source.path == "families",
    )  # fmt: skip


def _kind(value: Any) -> str:
    names = {
        type(None): "null",
        bool: "true/false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
