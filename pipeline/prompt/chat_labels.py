"""Which characters of a rendered conversation carry loss, and the labels of its tokens.

    <|user|>Q1<|end|><|assistant|>A1<|end|>\\n<|user|>Q2<|end|><|assistant|>A2<|end|>\\n
                                  ^^^^^^^^^                                 ^^^^^^^^^          loss: answers
                                                                           ^^^^^^^^^          loss: last

An answer begins where the header that generation would have added ends, and ends with the special token that ends a
turn. What a template adds after it (a line break, an end token of the whole conversation) carries none: generation has
stopped before.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.prompt.chat_form import ChatForm
from pipeline.prompt.chat_spans import Message, Places, Span, ends_of
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.rendered_text import EncodedText


class Unplaced(Exception):
    """An answer whose place is not known, as text."""


def check_tools(text: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], places: Places) -> None:
    """Checks that the template wrote what has to do with tools.

    Raises:
        Unplaced: it leaves out a tool, a call of one, or the text that one returned.
    """
    for tool in tools:
        if _name(tool) not in text:
            raise Unplaced(f"the template does not write the tool {_name(tool)!r}")
    for i, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            if not _name(call) or _name(call) not in text:
                raise Unplaced(f"turn {i + 1}: the template does not write the call of the tool {_name(call)!r}")
        if message["role"] == "tool" and (message.get("content") or "").strip() and places.opens[i] is None:
            raise Unplaced(f"turn {i + 1}: the template does not write what a tool returned")


def _name(value: Any) -> str:
    """Name of the function in a tool or a call."""
    function = value.get("function", value) if isinstance(value, Mapping) else None
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def answers_in(
    text: str, messages: Sequence[Message], places: Places, form: ChatForm, real: Sequence[re.Match[str]]
) -> dict[int, Span]:
    """Characters of each answer with its end token, by the index of its message.

    Args:
        text: the rendered conversation. places: of the messages in it. real: special tokens that are tokens.

    Raises:
        Unplaced: naming the first one.
    """
    ends = [match.end() for match in real if match[0] == form.end]
    answers: dict[int, Span] = {}
    at = 0  # everything before belongs to earlier messages
    for i, message in enumerate(messages):
        opened, closed = places.opens[i], places.closes[i]
        if message["role"] == "assistant":
            start = _start(text, message, form, at, opened, closed)
            if start is None:
                raise Unplaced(f"turn {i + 1}: the template changes or leaves out the text of the answer")
            later = next((p for p in places.opens[i + 1 :] if p is not None), len(text))
            floor = max(start, closed or opened or 0)
            end = next((e for e in ends if floor < e <= later), None)
            if end is None:
                raise Unplaced(f"turn {i + 1}: the template does not end this answer with {form.end}")
            answers[i] = (start, end)
            at = end
        at = max(at, closed or 0, opened or 0)
    return answers


def _start(text: str, message: Message, form: ChatForm, at: int, opened: int | None, closed: int | None) -> int | None:
    """Where an answer begins: after the last header before its text, if there is only white space in between."""
    if opened is not None:
        for header in form.headers:
            found = text.rfind(header, at, opened)
            if found >= 0 and not text[found + len(header) : opened].strip():
                return found + len(header)
        content = message["content"]
        lead = content[: ends_of(content)[0]]
        return opened - len(lead) if lead and text[max(at, opened - len(lead)) : opened] == lead else opened
    # The beginning of the text is not rendered (or there is none): the answer is what comes after the header.
    limit = len(text) if closed is None else closed
    found_at = [(text.find(h, at, limit), -len(h)) for h in form.headers]
    found_at = [pair for pair in found_at if pair[0] >= 0]
    if not found_at:
        return None
    first, length = min(found_at)
    return first - length


def learnt(
    text: str, messages: Sequence[Message], learn: Sequence[bool], answers: dict[int, Span], places: Places,
    loss: str, sound: set[int],
) -> list[Span]:  # fmt: skip
    """Spans of a conversation that carry loss, in order.

    Args:
        learn: false for answers that never do (`weight: 0`). loss: `prompt.loss`. sound: answers that are rendered as a
            model writes them.

    Raises:
        Unplaced: the place of a tool's result is not known.
    """
    last = max(answers, default=None)
    if loss == "last":
        answers = {i: span for i, span in answers.items() if i == last}
    if loss != "all":
        return [span for i, span in answers.items() if learn[i] and i in sound]
    without = [span for i, span in answers.items() if not learn[i]]
    for i, message in enumerate(messages):
        opened, closed = places.opens[i], places.closes[i]
        if message["role"] not in ("user", "assistant", "system") and message.get("content"):
            if opened is None or closed is None:
                raise Unplaced(f"turn {i + 1}: the template changes the tool's result, which must not carry loss")
            without.append((opened, closed))
    spans, at = [], 0
    for start, end in [*sorted(without), (len(text), len(text))]:
        if at < start:
            spans.append((at, start))
        at = max(at, end)
    return spans


def of_tokens(encoded: EncodedText, spans: Sequence[Span]) -> list[int]:
    """Labels of a text's ids: of the tokens that begin inside a span. spans: in the order of the text."""
    labels = [IGNORE] * len(encoded.ids)
    starts = [start for start, _ in spans]
    for n, (start, _) in enumerate(encoded.spans):
        i = bisect.bisect_right(starts, start) - 1
        if i >= 0 and start < spans[i][1]:
            labels[n] = encoded.ids[n]
    return labels
