"""Fields with content that a form does not use: rows that would lose it are rejected, with advice.

A field counts as content by its name (`CONTENT`, or choices with letters or numbers: `A` `B` `C`, `option_a`,
`choice1`), regardless of case. Its content is lost if the form does not use the field and the text does not appear in
the rows that were made. So nothing is lost by a second `context` equal to the input, by a `prompt` that is also the
first turn of a conversation, or by choices that the question repeats. `text` next to an `input` (tatsu-lab/alpaca), or
with instruction and output in it, is the row as it was rendered for training.

Other answers and reasoning (`chosen`, `rejected`, `solution`, `rationale`) and metadata (`id`, `url`, `title`) are not
content: question and answer still belong together without them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from pipeline.dataset.read.columns import columns_line
from pipeline.dataset.read.row import RawRow, Whole

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
LETTERS = ("a", "b", "c", "d", "e")  # choices if the first three exist
EMPTY = " \t\r\n[]{}\"'"  # characters of an empty list that a table stores as text


def unused_content(names: Sequence[str], used: Collection[str], has_input: bool) -> tuple[str, ...]:
    """The content fields among `names` that are not used. has_input: the form uses an input."""
    lower = {name: name.strip().lower() for name in names}
    letters = LETTERS if {*LETTERS[:3]} <= {*lower.values()} else ()
    return tuple(
        name
        for name, low in lower.items()
        if (low in CONTENT or low in letters or CHOICE.fullmatch(low))
        and name not in used
        and not (low == "text" and has_input)
    )


def lost_fields(row: Mapping[str, Any], names: Sequence[str], results: Sequence[RawRow]) -> list[str]:
    """Those fields of `row` whose content does not appear in the rows made of it.

    Empty if all results are rejected anyway.
    """
    good = [raw.value for raw in results if not raw.error]
    texts = [value[ours] for value in good for ours in ("instruction", "output")]
    if not good or not all(isinstance(text, str) for text in texts):
        return []
    first = good[0].get("input")  # later inputs of a conversation repeat its turns
    whole = [value for value in good if isinstance(value, Whole)]
    kept = [text for value in whole for name in ("system", "turns", "tools") for text in _texts_of(value.get(name))]
    shown = "\n".join(["", *texts, first if isinstance(first, str) else "", *kept, ""])
    blocks = [block.strip() for block in (*texts[0].split("\n\n"), texts[1])]
    return [
        name
        for name in names
        if not (name.strip().lower() == "tools" and any("tools" in value for value in whole))
        and not all(_contains(shown, text) for text in _texts_of(row[name]))
        and not (name.strip().lower() == "text" and all(block in str(row[name]) for block in blocks))
    ]


def _texts_of(value: Any) -> Iterator[str]:
    """Every text in a value; of a message, or of choices with labels, only its content."""
    if isinstance(value, dict):
        contents = [value[key] for key in ("content", "value", "text") if key in value]
        for inner in contents or value.values():
            yield from _texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_of(inner)
    elif isinstance(value, str):
        if value.strip(EMPTY):
            yield value.strip()
    elif isinstance(value, bytes):
        if value:
            yield "(binary data)"
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value == value:  # not NaN
        yield str(value)


def _contains(text: str, words: str) -> bool:
    """Whether `words` appear in the text with word boundaries around them: `4` is not in `45`."""
    at = text.find(words)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(words) : at + len(words) + 1]
        if not (before.isalnum() and words[0].isalnum()) and not (after.isalnum() and words[-1].isalnum()):
            return True
        at = text.find(words, at + len(words))
    return False


# --- advice in the reason of a rejection


def would_be_lost(names: Sequence[str]) -> str:
    return f"field{'s' if len(names) > 1 else ''} {', '.join(repr(name[:40]) for name in names)} would be lost"


def advice_for_list(names: Sequence[str], where: str) -> str:
    """For a form that makes its rows from a list, which `columns` cannot name. where: what can hold the content."""
    return _media_advice(names) or f"{would_be_lost(names)}; put it into {where}, or take it out"


def advice_for_columns(row: Mapping[str, Any], names: Sequence[str], columns: Mapping[str, str]) -> str:
    """For all other forms: a `columns:` line. A single text is proposed as the input if the row has none.

    columns: our texts with the fields that hold them.
    """
    if media := _media_advice(names):
        return media
    loss, instruction, name = would_be_lost(names), columns["instruction"], names[0]
    if len(names) > 1 or not isinstance(row[name], str) or ("input" in columns and row[columns["input"]]):
        return f"{loss}; put it into one of these, or leave it out: {columns_line(columns)}"
    swap = name.strip().lower() in ("instruction", "definition")
    instruction, text = (name, instruction) if swap else (instruction, name)
    proposal = {"instruction": instruction, "input": text, "output": columns["output"]}
    return f"{loss}; say which is which: {columns_line(proposal)}"


def _media_advice(names: Sequence[str]) -> str:
    """For fields that hold pictures, sound or films; empty if none of `names` does."""
    media = [name for name in names if name.strip().lower() in MEDIA]
    if not media:
        return ""
    return f"{', '.join(repr(name[:40]) for name in media)} holds no text: only text can be learnt, leave such rows out"
