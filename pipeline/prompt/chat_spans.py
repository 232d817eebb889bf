"""Where each message's text is in a rendered conversation.

The conversation is rendered a second time with a mark before and after each text, inside the white space at its ends,
so that a template that trims still trims:

    content   "  Hi there "          marked   "  (Hi there) "        ( and ): characters of the private use plane
    rendered  <|user|>Hi there<|end|>         <|user|>(Hi there)<|end|>

If both results are equal without the marks, the marks are the places. A template that looks into a text (Qwen3 asks
whether one begins with `<tool_response>`) may render the marked one in another way. Then only answers are marked, and
if that does not help either, texts are searched in their order.

A mark that is missing was in text that the template leaves out, such as the reasoning before `</think>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]
Message = Mapping[str, Any]
FIRST = 0xF0000  # mark before the text of message 0; the one after it is the next character, and so on
MARKS = re.compile("[\U000f0000-\U000fffff]")
GUARD = chr(0xFFFFD)  # around special tokens that are spelt in other fields than `content`
MOST = (0xFFFF0 - FIRST) // 2  # messages


@dataclass(frozen=True, slots=True)
class Places:
    """texts: characters from the first to the last letter of each message's text; None where an end is not known.

    opens, closes: either end alone, where it is known. guarded: characters of other fields that spell special tokens.
    """

    opens: list[int | None]
    closes: list[int | None]
    guarded: list[Span]


def marked(messages: Sequence[Message], pattern: re.Pattern[str], answers_only: bool = False) -> list[Message] | None:
    """The messages with marks; None if a text holds such characters itself or there are too many messages.

    Args:
        pattern: of special tokens. answers_only: leaves out the texts of the other roles.
    """
    if len(messages) > MOST or any(_holds_marks(message) for message in messages):
        return None
    return [
        _marked(message, i, pattern, answers_only and message["role"] != "assistant")
        for i, message in enumerate(messages)
    ]


def _marked(message: Message, i: int, pattern: re.Pattern[str], leave: bool) -> Message:
    def guard(text: str) -> str:
        return pattern.sub(f"{GUARD}\\g<0>{GUARD}", text)

    result = {key: value if key in ("role", "content") else _map(value, guard) for key, value in message.items()}
    text = message.get("content")
    if leave or not isinstance(text, str) or not text.strip():  # templates ask whether a text is empty
        return result
    start, end = ends_of(text)
    result["content"] = f"{text[:start]}{chr(FIRST + 2 * i)}{text[start:end]}{chr(FIRST + 2 * i + 1)}{text[end:]}"
    return result


def ends_of(text: str) -> Span:
    """Where a text begins and ends without the white space around it."""
    return len(text) - len(text.lstrip()), len(text.rstrip())


def read(rendered: str, with_marks: str, count: int) -> Places | None:
    """The places by the marks; None if the two results differ in more than marks."""
    if MARKS.sub("", with_marks) != rendered:
        return None
    places: dict[str, int | None] = {}
    guards: list[int] = []
    for n, match in enumerate(MARKS.finditer(with_marks)):
        at, mark = match.start() - n, match[0]
        if mark == GUARD:
            guards.append(at)
        else:
            places[mark] = at if mark not in places else None  # a text that is there twice has no one place
    opens = [places.get(chr(FIRST + 2 * i)) for i in range(count)]
    closes = [places.get(chr(FIRST + 2 * i + 1)) for i in range(count)]
    return Places(opens, closes, list(zip(guards[::2], guards[1::2], strict=False)))


def searched(rendered: str, messages: Sequence[Message], known: Places | None = None) -> Places:
    """The places by searching the texts that are not `known` in their order."""
    unknown: list[int | None] = [None for _ in messages]
    opens, closes = list(known.opens if known else unknown), list(known.closes if known else unknown)
    at = 0
    for i, message in enumerate(messages):
        text = message.get("content")
        text = text.strip() if isinstance(text, str) else ""
        if opens[i] is None and closes[i] is None and text:
            later = next((o for o in opens[i + 1 :] if o is not None), len(rendered))
            start = rendered.find(text, at, later)
            if start >= 0:
                opens[i], closes[i] = start, start + len(text)
        at = max(at, closes[i] or 0, opens[i] or 0)
    return Places(opens, closes, known.guarded if known else [])


def _holds_marks(value: Any) -> bool:
    if isinstance(value, str):
        return bool(MARKS.search(value))
    if isinstance(value, Mapping):
        return any(map(_holds_marks, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_marks, value))


def _map(value: Any, change: Callable[[str], str]) -> Any:
    """The same plain data with each text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map(item, change) for item in value]
    return value
