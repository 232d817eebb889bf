"""Preference data: of two answers only the preferred one is learnt, and an answer marked as bad is not.

- A preferred and a rejected answer (DPO: `chosen`, `rejected`): the preferred one is the output, the other is not read.
- One answer with a label (KTO: `label: false`): the row is rejected as `undesired`.

Question and answer may each be text, messages (TRL's conversational form), or one text with `Human:` and `Assistant:`
turns, as in hh-rlhf. Reasoning in a column of its own is not learnt either; a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pipeline.run.json_file import json_or_none

CHOSEN = ("chosen", "chosen_response", "response_chosen", "preferred_output", "preferred", "response_j")
LOST = ("rejected", "rejected_response", "response_rejected", "non_preferred_output", "dispreferred", "response_k")
MARKS = ("label", "kto_tag", "desirable", "is_desirable", "is_preferred")  # false = the answer is a bad one
NUMBERS = ("0", "1", "-1", "0.0", "1.0", "-1.0")
REASONING = (
    "complex_cot", "cot", "chain_of_thought", "reasoning", "reasoning_content", "reasoning_trace", "thinking",
    "thought", "thoughts", "think", "rationale", "thinking_trajectories",
)  # fmt: skip
CLASSES = ("false", "no", "0", "아니요")  # a label `false` beside such an answer may be the answer itself
SPOKEN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def undesired(row: Mapping[str, Any], used: Collection[str], output: Any) -> str:
    """The field that marks the answer of a row as a bad one; empty if none does.

    Args:
        used: fields that are texts or the task of the row; they are not marks.
        output: the answer. If it is `yes` or `false`, a label is its class and not a mark.

    A number is a mark in a field that is named after marks; under `label` it may be a class (`notes` says so).
    """
    is_class = isinstance(output, str) and output.strip().lower() in CLASSES
    for name, value in row.items():
        low, said = name.strip().lower(), str(value).strip().lower()
        if name in used or (low == "label" and is_class):
            continue
        bad = low in MARKS and (said == "false" or (low != "label" and said in ("0", "-1", "0.0", "-1.0")))
        # Flags, where other data sets have the answers themselves.
        if bad or (low in CHOSEN and value is False) or (low in LOST and value is True):
            return name
    return ""


def notes(row: Mapping[str, Any], used: Collection[str]) -> Iterator[str]:
    """Notes on answers and reasoning in a row that are not learnt. used: fields that are."""
    unused = {name: name.strip().lower() for name, value in row.items() if value is not None and name not in used}
    for name, low in unused.items():
        if low in LOST and not isinstance(row[name], bool):
            preferred = next((repr(n[:40]) for n in used if n.strip().lower() in CHOSEN), "the output")
            yield f"{name[:40]!r} is never learnt, {preferred} is (preference data)"
        elif low in REASONING:
            yield f"the reasoning in {name[:40]!r} is not learnt; write it into the answer to learn it"
        elif low == "label" and str(row[name]).strip() in NUMBERS:
            yield f"numbers in {name[:40]!r} are not read: where 0 marks a bad answer, write true and false"


def to_messages(question: Any, answer: Any) -> tuple[list[Any], int] | None:
    """Question and answer as messages, and how many of these are the prompt; None if both are plain texts.

    The answer may be a whole conversation that begins with the question.
    """
    prompt, reply = _messages(question), _messages(answer)
    if prompt is None and reply is None:
        return None
    if prompt is None:
        prompt = [{"role": "user", "content": question}] if question else []
    if reply is None:
        reply = [{"role": "assistant", "content": answer}]
    elif _begins_with(reply, prompt):
        return reply, len(prompt)
    return [*prompt, *reply], len(prompt)


def _messages(value: Any) -> list[Any] | None:
    if isinstance(value, Mapping):
        inside = value.get("messages")
        if isinstance(inside, list):
            return inside
        return [value] if _is_message(value) else None
    if isinstance(value, str):
        return _from_text(value)
    return list(value) if isinstance(value, Sequence) and value and all(map(_is_message, value)) else None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role", value.get("from")), str)


def _from_text(text: str) -> list[Any] | None:
    """The messages in a text: JSON, or `Human:` and `Assistant:` turns with a blank line between; None for others."""
    if text.startswith(("[", "{")) and ('"role"' in text or '"from"' in text):
        value = json_or_none(text)
        return None if isinstance(value, str) else _messages(value)
    if not re.match(r"\s*Human:", text) or "\n\nAssistant:" not in text:
        return None
    parts = SPOKEN.split(text)  # text before, speaker, text, speaker, text, ...
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[1::2])
    turns = [{"role": role, "content": text.strip()} for role, text in zip(roles, parts[2::2], strict=True)]
    return turns if turns[-1]["content"] else turns[:-1]  # a prompt ends with "Assistant:"


def _begins_with(reply: list[Any], prompt: list[Any]) -> bool:
    texts, start = (
        [message.get("content", message.get("value")) for message in messages if isinstance(message, Mapping)]
        for messages in (reply, prompt)
    )
    return bool(start) and texts[: len(start)] == start
