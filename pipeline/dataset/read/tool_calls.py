"""Tools in conversations: descriptions of functions, calls of them, and the check that every call has its result.

    OpenAI, TRL        tool_calls: [{id, type, function: {name, arguments}}], role `tool` with tool_call_id; `tools`
    OpenAI until 2023  function_call: {name, arguments}, role `function` with a name; `functions`
    LLaMA-Factory      speakers `function_call` (JSON of name and arguments) and `observation`; `tools` as JSON text

All become the first form; calls and descriptions that have it already stay as they were given.
Sources: OpenAI's API reference (chat, fine-tuning); huggingface/trl docs/source/dataset_formats.md;
hiyouga/LLaMA-Factory data/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.run.json_file import json_or_none

TOOLS = ("tools", "functions")  # fields of a row that describe them
CALLERS = ("function_call", "tool_call")  # speakers whose message is a call


class BadTools(Exception):
    """Why calls or descriptions cannot be used."""


def tools_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The descriptions of tools in a row; empty if it has none.

    Raises:
        BadTools: they are not a list of functions with names.
    """
    value = next((value for name, value in row.items() if name.strip().lower() in TOOLS and value), None)
    if value is None:
        return []
    parsed = _parsed(value)
    listed = [_parsed(tool) for tool in (parsed if isinstance(parsed, list) else [parsed])]
    if not all(isinstance(tool, dict) and _name(tool) for tool in listed):
        raise BadTools("the tools are not a list of functions with names")
    return [tool if "function" in tool or "type" in tool else {"type": "function", "function": tool} for tool in listed]


def calls_of(message: Mapping[str, Any], content: str, speaker: str) -> list[dict[str, Any]]:
    """The calls in a message of the assistant; empty if it has none.

    Args:
        content: its text, which is the call if the `speaker` is one of `CALLERS`.

    Raises:
        BadTools: a call has no name.
    """
    calls = message.get("tool_calls") or message.get("function_call")
    is_given = bool(message.get("tool_calls"))
    if not calls and speaker in CALLERS:
        calls = content
    calls = _parsed(calls) if calls else []
    listed = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and _name(call) for call in listed):
        raise BadTools("calls a tool without its name")
    return listed if is_given else [_as_call(call) for call in listed]


def text_of(calls: Sequence[Mapping[str, Any]]) -> str:
    """Names and arguments of calls as text, for comparisons: without ids, which differ between equal calls."""
    functions = [call.get("function", call) for call in calls]
    return "\n".join(f"{f.get('name')} {_text(f.get('arguments'))}" for f in functions)


class OpenCalls:
    """The latest calls, as far as their results are missing."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []  # id (may be empty) and name
        self._answered = 0

    @property
    def missing(self) -> str:
        """The names of calls without a result. Of calls without ids, one result is enough: it may hold all."""
        if self._answered and not any(id for id, _ in self._open):
            return ""
        return ", ".join(name[:40] for _, name in self._open)

    @property
    def is_answered(self) -> bool:
        """Whether a result came."""
        return self._answered > 0

    def call(self, calls: Sequence[Mapping[str, Any]]) -> None:
        self._open = [(str(call.get("id") or ""), _name(call)) for call in calls]
        self._answered = 0

    def answer(self, id: Any) -> bool:
        """Takes a result; False if no open call has this id. Without an id it belongs to the first open call."""
        given = str(id or "")
        mine = next((call for call in self._open if not given or call[0] in (given, "")), None)
        if mine is None:
            return False
        self._open.remove(mine)
        self._answered += 1
        return True


def _as_call(call: dict[str, Any]) -> dict[str, Any]:
    return call if "function" in call else {"type": "function", "function": call}


def _name(tool: Mapping[str, Any]) -> str:
    inner = tool.get("function", tool)
    name = inner.get("name") if isinstance(inner, Mapping) else inner if isinstance(inner, str) else None
    # Tools that a service runs itself have only a type.
    name = name or (tool.get("type") if tool.get("type") != "function" and "function" not in tool else None)
    return name if isinstance(name, str) else ""


def _parsed(value: Any) -> Any:
    """JSON text as its value; everything else as it is."""
    return json_or_none(value) if isinstance(value, str) else value


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, sort_keys=True)
