"""Makes tool calls of calls that are written as text (`pipeline.dataset.read.hermes`), for templates that know tools.

    assistant  <tool_call>{...}</tool_call>           assistant  tool_calls: [{id, type, function}]
    tool       <tool_response>R</tool_response>       tool       R, tool_call_id
    system     Hermes' own instructions               tools: [...]

All of a conversation is converted or nothing: every call is of a described tool, and has as many results as calls, or
is the last turn. A system message is left out if it begins as Hermes' does, and else loses its descriptions; one that
explains the tags in words of its own stays, and with it the whole conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.dataset.read.hermes import calls_in, responses_in, tools_in
from pipeline.dataset.read.tool_calls import BadTools, tools_of
from pipeline.prompt.conversation import Conversation, Message

OPENING = "You are a function calling AI model."  # of the system message in Hermes' data
TAG = "<tool_call>"


def with_calls(conversation: Conversation) -> Conversation:
    """The conversation with tool calls in place of their text; as it is where it cannot be converted."""
    messages = conversation.messages
    if not any(m["role"] == "assistant" and TAG in (m.get("content") or "") for m in messages):
        return conversation
    if any("tool_calls" in message for message in messages):
        return conversation
    head, tools = _head(messages, conversation.tools)
    if not tools or any(TAG in message["content"] for message in head):
        return conversation
    start = 1 if messages[0]["role"] == "system" else 0
    body = _body(messages[start:], conversation.learn[start:], {tool["function"]["name"] for tool in tools})
    if body is None:
        return conversation
    rest, learn = body
    return replace(conversation, messages=[*head, *rest], learn=[*(True for _ in head), *learn], tools=tuple(tools))


def _head(messages: Sequence[Message], given: Sequence[Any]) -> tuple[list[Message], list[Any]]:
    """The system message that is left, if any, and the descriptions of tools: `given` ones, or those in its text."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    listed, rest = tools_in(system)
    try:
        tools = list(given) or tools_of({"tools": listed})
    except BadTools:
        tools = []
    if not all(isinstance(tool.get("function"), Mapping) and tool["function"].get("name") for tool in tools):
        tools = []
    left = "" if system.lstrip().startswith(OPENING) else rest
    return ([{"role": "system", "content": left}] if left else []), tools


def _body(
    messages: Sequence[Message], learn: Sequence[bool], known: set[str]
) -> tuple[list[Message], list[bool]] | None:
    """The turns after the system message, and which of them carry loss; None if something does not fit.

    Args:
        known: names of the tools.
    """
    converted: list[Message] = []
    carry: list[bool] = []
    number = 0  # of calls
    open_ids: list[str] = []  # of calls without a result
    for message, carries in zip(messages, learn, strict=True):
        content = message.get("content") or ""
        if message["role"] == "tool":
            for response in responses_in(content):
                if not open_ids:
                    return None
                converted.append({"role": "tool", "content": response, "tool_call_id": open_ids.pop(0)})
                carry.append(carries)
            continue
        if open_ids:
            return None
        if message["role"] == "assistant" and ("<tool_call" in content or "</tool_call" in content):
            parsed = calls_in(content)
            if parsed is None or any(call["name"] not in known for call in parsed[1]):
                return None
            text, calls = parsed
            open_ids = [f"call{number + i:05d}" for i in range(1, len(calls) + 1)]  # Mistral wants nine characters
            number += len(calls)
            functions = [
                {"id": id, "type": "function", "function": call} for id, call in zip(open_ids, calls, strict=True)
            ]
            message = {**message, "content": text, "tool_calls": functions}
        converted.append(message)
        carry.append(carries)
    is_last = bool(converted) and "tool_calls" in converted[-1]
    return None if open_ids and not is_last else (converted, carry)
