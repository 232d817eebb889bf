"""Tool calls that are written as text, as in the data of NousResearch's Hermes models.

    system      ... <tools>[{"type": "function", "function": {...}}]</tools> ...
    assistant   <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>
    tool        <tool_response>{"sum": 3}</tool_response>

Rows keep this text. `pipeline.prompt.text_calls` makes calls of it for chat templates that know tools. The JSON may be
written as Python does ('single quotes'), as in a part of the published rows.
Source: NousResearch/Hermes-Function-Calling (README), the data set NousResearch/hermes-function-calling-v1.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

LONGEST = 100_000  # characters of a call or of descriptions that are parsed
CALL = {"name", "arguments"}


def calls_in(text: str) -> tuple[str, list[dict[str, Any]]] | None:
    """The text before the calls, and the calls as {name, arguments}; None unless every tag has its pair, every call can
    be parsed, and nothing follows them."""
    blocks = _blocks(text, "tool_call")
    if not blocks:
        return None
    before, inner, after = blocks
    calls = [_parsed(part) for part in inner]
    if after or not all(_is_call(call) for call in calls):
        return None
    return before, calls


def responses_in(text: str) -> list[str]:
    """What tools returned: the inside of each block; the text itself where it is not made of blocks alone."""
    blocks = _blocks(text, "tool_response")
    if not blocks or blocks[0] or blocks[2]:
        return [text]
    return [part.strip() for part in blocks[1]]


def tools_in(text: str) -> tuple[list[Any], str]:
    """The descriptions of tools in a system message, and its text without them; no descriptions if there is not exactly
    one block that can be parsed."""
    found = [(match, _listed(match[1])) for match in re.finditer(r"<tools>(.*?)</tools>", text, re.DOTALL)]
    found = [(match, tools) for match, tools in found if tools]
    if len(found) != 1:
        return [], text
    match, tools = found[0]
    return tools, (text[: match.start()].rstrip() + "\n\n" + text[match.end() :].lstrip()).strip()


def _blocks(text: str, tag: str) -> tuple[str, list[str], str] | None:
    """The text before, inside and after blocks of a tag; None if tags have no pair or text is between blocks."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    before, *parts = text.split(opening)
    if not parts or closing in before or any(part.count(closing) != 1 for part in parts):
        return None
    inner, outside = zip(*(part.split(closing) for part in parts), strict=True)
    if any(gap.strip() for gap in outside[:-1]):
        return None
    return before.strip(), list(inner), outside[-1].strip()


def _is_call(value: Any) -> bool:
    return (
        isinstance(value, dict) and value.keys() == CALL and isinstance(value["name"], str) and bool(value["name"])
        and isinstance(value["arguments"], dict)
    )  # fmt: skip


def _listed(text: str) -> list[Any]:
    """A list, an object, or an object a line."""
    value = _parsed(text)
    if value is None:
        lines = [line for line in text.splitlines() if line.strip()]
        value = [_parsed(line) for line in lines]
    listed = value if isinstance(value, list) else [value]
    return listed if all(isinstance(item, dict) and item for item in listed) else []


def _parsed(text: str) -> Any:
    """JSON, or a literal of Python that JSON can hold; None for anything else."""
    text = text.strip()
    if len(text) > LONGEST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(json.dumps(ast.literal_eval(text), allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
