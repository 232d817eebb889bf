"""Rows of the forms of data, converted and checked."""

from __future__ import annotations

import pickle
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.row import RawRow, Rejected, check


def rows(row: Any, **more: Any) -> list[RawRow]:
    found = to_alpaca(RawRow(row, "f:1"), Source(path="f", **more))
    assert found
    assert pickle.loads(pickle.dumps(found)) == found
    return found


def checked(row: Any, **more: Any) -> list[Example | Rejected]:
    return [check(raw, Source(path="f", **more)) for raw in rows(row, **more)]


def said(row: Any, **more: Any) -> list[tuple[str, ...]]:
    """What came of a row: the three texts of an example, or the rule that refused it."""
    return [(e.instruction, e.input, e.output) if isinstance(e, Example) else (e.rule,) for e in checked(row, **more)]


def reason(row: Any, **more: Any) -> str:
    (found,) = checked(row, **more)
    assert isinstance(found, Rejected)
    return f"{found.rule}: {found.reason}"


def talk(*said: str, **more: Any) -> dict[str, Any]:
    """OpenAI messages from words such as `u:hello`."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return {"messages": [{"role": roles[s[0]], "content": s[2:]} for s in said], **more}
