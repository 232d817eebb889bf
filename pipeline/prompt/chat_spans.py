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
PLANES = (0xF0000, 0x100000)  # private use; the marks are of one that no text has a character of
GUARD = 0xFFFD  # of a plane: around special tokens that are spelt in other fields than `content`
MOST = 0x7FF0  # messages


@dataclass(frozen=True, slots=True)
class Marked:
    """Messages with marks: in `plane`, 2i before and 2i + 1 after the text of message i."""

    messages: list[Message]
    plane: int

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches a mark."""
        return re.compile(f"[{chr(self.plane)}-{chr(self.plane + GUARD)}]")


@dataclass(frozen=True, slots=True)
class Places:
    """texts: characters from the first to the last letter of each message's text; None where an end is not known.

    opens, closes: either end alone, where it is known. guarded: characters of other fields that spell special tokens.
    """

    opens: list[int | None]
    closes: list[int | None]
    guarded: list[Span]


def marked(messages: Sequence[Message], pattern: re.Pattern[str], answers_only: bool = False) -> Marked | None:
    """The messages with marks; None if texts hold characters of all private planes, or there are too many messages.

    Args:
        pattern: of special tokens. answers_only: leaves out the texts of the other roles.
    """
    used = {
        ord(letter) & 0x1F0000 for message in messages for letter in set(_letters(message)) if ord(letter) > 0xEFFFF
    }
    plane = next((plane for plane in PLANES if plane not in used), None)
    if plane is None or len(messages) > MOST:
        return None
    return Marked(
        [_marked(message, plane + 2 * i, chr(plane + GUARD), pattern, answers_only and message["role"] != "assistant")
         for i, message in enumerate(messages)], plane,
    )  # fmt: skip


def _marked(message: Message, mark: int, around: str, pattern: re.Pattern[str], leave: bool) -> Message:
    def guard(text: str) -> str:
        return pattern.sub(f"{around}\\g<0>{around}", text)

    result = {key: value if key in ("role", "content") else _map(value, guard) for key, value in message.items()}
    text = message.get("content")
    if leave or not isinstance(text, str) or not text.strip():  # templates ask whether a text is empty
        return result
    start, end = ends_of(text)
    result["content"] = f"{text[:start]}{chr(mark)}{text[start:end]}{chr(mark + 1)}{text[end:]}"
    return result


def ends_of(text: str) -> Span:
    """Where a text begins and ends without the white space around it."""
    return len(text) - len(text.lstrip()), len(text.rstrip())


def read(rendered: str, with_marks: str, marked: Marked) -> Places | None:
    """The places by the marks; None if the two results differ in more than marks."""
    marks, count = marked.pattern, len(marked.messages)
    if marks.sub("", with_marks) != rendered:
        return None
    places: dict[int, int | None] = {}
    guards: list[int] = []
    for n, match in enumerate(marks.finditer(with_marks)):
        at, mark = match.start() - n, ord(match[0]) - marked.plane
        if mark == GUARD:
            guards.append(at)
        else:
            places[mark] = at if mark not in places else None  # a text that is there twice has no one place
    opens = [places.get(2 * i) for i in range(count)]
    closes = [places.get(2 * i + 1) for i in range(count)]
    return Places(opens, closes, list(zip(guards[::2], guards[1::2], strict=False)))


def searched(
    rendered: str, messages: Sequence[Message], pattern: re.Pattern[str], known: Places | None = None
) -> Places:
    """The places by searching the texts that are not `known` in their order, not inside special tokens (`pattern`)."""
    special = [match.span() for match in pattern.finditer(rendered)]
    unknown: list[int | None] = [None for _ in messages]
    opens, closes = list(known.opens if known else unknown), list(known.closes if known else unknown)
    at = 0
    for i, message in enumerate(messages):
        text = message.get("content")
        text = text.strip() if isinstance(text, str) else ""
        if opens[i] is None and closes[i] is None and text:
            later = next((o for o in opens[i + 1 :] if o is not None), len(rendered))
            start = rendered.find(text, at, later)
            while any(a < start < b for a, b in special):
                start = rendered.find(text, start + 1, later)
            if start >= 0:
                opens[i], closes[i] = start, start + len(text)
        at = max(at, closes[i] or 0, opens[i] or 0)
    return Places(opens, closes, known.guarded if known else [])


def _letters(value: Any) -> str:
    """All texts in a message."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(map(_letters, value.values()))
    return "".join(map(_letters, value)) if isinstance(value, list | tuple) else ""


def _map(value: Any, change: Callable[[str], str]) -> Any:
    """The same plain data with each text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map(item, change) for item in value]
    return value
