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


def kept_whole(row: Any, **more: Any) -> list[Any]:
    """What came of a row for a chat template: words such as `u:hello`, or the rule that refused it.

    `~` marks an answer without loss, `+` a turn with further fields.
    """
    source = Source(path="f", **more)
    found = [check(raw, source) for raw in to_alpaca(RawRow(row, "f:1"), source, whole=True)]
    return [_words(e) if isinstance(e, Example) else e.rule for e in found]


def _words(example: Example) -> list[str]:
    words = [f"s:{example.system}"] if example.system else []
    if not example.turns:
        assert not example.input
        return [*words, f"u:{example.instruction}", f"a:{example.output}"]
    marks = [("" if turn.learn else "~") + ("+" if turn.more else "") for turn in example.turns]
    return words + [f"{turn.role[0]}{mark}:{turn.content}" for turn, mark in zip(example.turns, marks, strict=True)]


def whole(row: Any, **more: Any) -> Example:
    """The one example that came of a row for a chat template."""
    source = Source(path="f", **more)
    (found,) = (check(raw, source) for raw in to_alpaca(RawRow(row, "f:1"), source, whole=True))
    assert isinstance(found, Example), found
    return found
