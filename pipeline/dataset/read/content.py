"""What of a row's content its form would lose: an answer must not be learnt without what it leans on.

A field is content by its name, letter case aside: `CONTENT`, or choices with letters or numbers (`A` `B` `C`,
`option_a`, `choice1`). It is lost when the form does not use it and what it says stands nowhere in the rows that were
made: a second `context` equal to the input, a `prompt` that is a conversation's first turn, or choices that stand in
the question too lose nothing. `text` beside an `input` (tatsu-lab/alpaca), or with instruction and output in it, is the
row as it was rendered for training.

Other answers and what led to one (`chosen`, `rejected`, `solution`, `rationale`) and facts about a row (`id`, `url`,
`title`) are no content: without them question and answer still belong together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal
from typing import Any

from pipeline.dataset.read.raw import Raw

MEDIA = ("image", "images", "audio", "video", "videos")
CONTENT = frozenset((
    "instruction", "definition", "prompt", "question", "query", "problem", "input", "inputs", "system",
    "system_prompt", "context", "contexts", "passage", "passages", "document", "documents", "paragraph",
    "article", "story", "dialogue", "premise", "hypothesis", "table", "text", "choices", "options", "hint",
    "messages", "conversations", "conversation", "history", "tools", *MEDIA,
    "지시문", "지시", "명령", "명령어", "질문", "질의", "문제", "입력", "문맥", "지문",
    "본문", "보기", "선택지", "힌트",
))  # fmt: skip
CHOICE = re.compile(r"(?:choice|option)s?[ _]?[0-9a-e]")
LETTERS = ("a", "b", "c", "d", "e")  # choices when the first three are there
NOTHING = " \t\r\n[]{}\"'"  # signs of an empty list that a table holds as text


def unused(names: Sequence[str], used: Collection[str], has_input: bool) -> tuple[str, ...]:
    """Those names that say content and are not among the used ones; `has_input`: an input is."""
    folded = {name: name.strip().lower() for name in names}
    letters = LETTERS if {*LETTERS[:3]} <= {*folded.values()} else ()
    return tuple(
        name
        for name, low in folded.items()
        if (low in CONTENT or low in letters or CHOICE.fullmatch(low))
        and name not in used
        and not (low == "text" and has_input)
    )


def lost(row: dict[str, Any], names: Sequence[str], made: Sequence[Raw]) -> list[str]:
    """Those fields whose content stands nowhere in the rows made of `row`; none where these are refused anyway."""
    good = [raw.value for raw in made if not raw.error]
    texts = [value[ours] for value in good for ours in ("instruction", "output")]
    if not good or not all(isinstance(text, str) for text in texts):
        return []
    first = good[0].get("input")  # later inputs of a conversation repeat its turns
    shown = "\n".join(["", *texts, first if isinstance(first, str) else "", ""])
    whole = [block.strip() for block in (*texts[0].split("\n\n"), texts[1])]
    return [
        name
        for name in names
        if not all(_stands_in(shown, part) for part in _said(row[name]))
        and not (name.strip().lower() == "text" and all(block in str(row[name]) for block in whole))
    ]


def _said(value: Any) -> Iterator[str]:
    """Every text in a value; of a message, or of choices with labels, only what it says."""
    if isinstance(value, dict):
        said = [value[key] for key in ("content", "value", "text") if key in value]
        for part in said or value.values():
            yield from _said(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _said(part)
    elif isinstance(value, str):
        if value.strip(NOTHING):
            yield value.strip()
    elif isinstance(value, bytes):
        if value:
            yield "(binary data)"
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value == value:  # not NaN
        yield str(value)


def _stands_in(text: str, part: str) -> bool:
    """Whether the part stands in the text as words of its own: `4` does not stand in `45`."""
    at = text.find(part)
    while at >= 0:
        before, behind = text[at - 1 : at], text[at + len(part) : at + len(part) + 1]
        if not (before.isalnum() and part[0].isalnum()) and not (behind.isalnum() and part[-1].isalnum()):
            return True
        at = text.find(part, at + len(part))
    return False
