"""A conversation becomes rows: one for every answer, with what was said before as its input.

What comes out of the messages of one conversation:

- instruction: the user's turn. The system message stands before it, with a blank line between, in every row: each
  answer was given under it. Several system messages at the start are one.
- input: the earlier turns as `User: ...` and `Assistant: ...`, one under the other, in every language,
  so that a chat can write the same form again without guessing the language. The first row has none. Where that is
  more than `HISTORY` letters, the last whole turns that fit, from a user's on, and at least one question and answer:
  2,048 tokens, all that LLaMA sees, are no more, and the whole of a long talk in each of its rows is the square of
  its length. Nothing in the row says that something is missing, since the model would learn to write that.
- output: the assistant's turn.
- thread: a hash of the conversation, where something was said before or it gives more than one row; the split keeps
  such rows on one side, and the encoder may leave out their oldest turns.

Messages of one speaker in a row are one turn, joined by a blank line. A conversation that opens with the assistant
keeps that as history: no row can be made of it. A user's turn at the end that nobody answers is rejected (`no-answer`).
An answer with `weight: 0` (OpenAI: not to be learnt) stays in the history and is rejected as a row. An empty message,
an unknown speaker, a late system message, a tool call or anything but text costs that turn and all after it, with the
reason, since they lean on something that cannot be shown; the turns before stay.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.read.raw import Raw

CONVERSATION = ("messages", "conversations", "conversation")  # the fields that hold one
SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter", "usr"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_call", "tool_call", "function_response"), "tool"),
}
HISTORY = 8_000  # letters of `input`
LABELS = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker said in one go.

    learn: false for an answer marked `weight: 0`. prompt: it belongs to the question, so it is no row of its own.
    """

    speaker: str
    text: str
    learn: bool = True
    prompt: bool = False


class _Unusable(Exception):
    """Rule and reason why a message, and with it all that follows, cannot be used."""


def rows_of(raw: Raw, messages: Any, prompt: int = 0, system: str = "", task: str = "") -> list[Raw]:
    """The rows of one conversation in Alpaca form, and one refused row for what could not be used; never nothing.

    `messages` is a list of {role, content} or {from, value}, a list of {input, output} pairs, a list of texts that
    user and assistant say in turn, such a list as JSON text, or an object of lists as `datasets` stores it. Answers
    among the first `prompt` of them are history and no rows.
    """
    turns: list[Turn] = []
    problem: tuple[str, str] | None = None
    try:
        for number, message in enumerate(_listed(messages), 1):
            turn = _turn(message, number, prompt=number <= prompt)
            if turn.speaker == "system":
                if turns:
                    raise _Unusable("late-system-message", f"message {number} is a system message in the middle")
                system = f"{system}\n\n{turn.text}" if system else turn.text
            elif turns and turns[-1].speaker == turn.speaker:
                joined = f"{turns[-1].text}\n\n{turn.text}"
                turns[-1] = Turn(turn.speaker, joined, turns[-1].learn and turn.learn, turns[-1].prompt and turn.prompt)
            else:
                turns.append(turn)
    except _Unusable as error:
        problem = error.args[0], error.args[1]
        if turns and turns[-1].speaker == "assistant" and problem[0] == "tool-call":
            turns.pop()  # its answer goes on with what the tool said
    return _cut(raw, turns, problem, system, task)


def _cut(raw: Raw, turns: list[Turn], problem: tuple[str, str] | None, system: str, task: str) -> list[Raw]:
    pairs = [i for i in range(1, len(turns)) if turns[i].speaker == "assistant" and not turns[i].prompt]
    several = len(pairs) > 1
    thread = _thread(turns, system) if several or (pairs and pairs[0] > 1) else ""
    found: list[Raw] = []
    for k, (i, earlier) in enumerate(zip(pairs, _transcripts(turns, pairs), strict=True), 1):
        place = f"{raw.place}, turn {k}" if several else raw.place
        asked = turns[i - 1].text
        row = {
            "instruction": f"{system}\n\n{asked}" if system else asked,
            "input": earlier,
            "output": turns[i].text,
            "task": task,
            "thread": thread,
        }
        one = Raw(row, place)
        if not turns[i].learn:  # refused without the whole conversation, which would be written once for each answer
            one = one.refused("weight-zero", "its message says weight: 0, not to be learnt")
        found.append(one)
    if problem is None and turns and turns[-1].speaker == "user":
        problem = "no-answer", "the last turn is the user's, and nobody answers"
    elif problem is None and not found:
        problem = "no-question", "the conversation has no user turn" if turns else "the conversation has no turns"
    if problem:
        rule, reason = problem
        more = "; it and what follows is left out" if found and rule != "no-answer" else ""
        found.append(raw.refused(rule, reason + more, f"{raw.place}, turn {len(pairs) + 1}" if found else ""))
    return found


def _transcripts(turns: Sequence[Turn], pairs: Sequence[int]) -> Iterator[str]:
    """What was said before each of `pairs` (numbers of answers) and its question, cut to the last `HISTORY` letters."""
    lines = [f"{LABELS[turn.speaker]}: {turn.text}" for turn in turns]
    ends = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
    start = 0
    for i in pairs:
        while ends[i - 1] - ends[start] - 1 > HISTORY and start < i - 3:
            start += 2 if turns[start].speaker == "user" else 1
        yield "\n".join(lines[start : i - 1])


def growth(messages: Any, repeated: int = 0) -> int:
    """About how many letters the rows of a conversation have beyond its own.

    Each row repeats what was said before, the first message (often the system's), and `repeated` letters of elsewhere.
    """
    try:
        listed = _listed(messages)
    except _Unusable:
        return 0
    if len(listed) < 3:
        return 0
    return (len(listed) // 2) * (min(letters(listed), HISTORY) + letters(listed[0]) + repeated)


def letters(value: Any) -> int:
    """Letters of all texts in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict | list):
        return sum(map(letters, value.values() if isinstance(value, dict) else value))
    return 0


def _listed(messages: Any) -> list[Any]:
    """The messages as a list of objects."""
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            raise _Unusable("not-a-conversation", "the conversation is text, not a list of messages") from None
    if isinstance(messages, dict) and messages and all(isinstance(v, list) for v in messages.values()):
        if len({len(v) for v in messages.values()}) != 1:
            raise _Unusable("not-a-conversation", "the lists of the conversation are not equally long")
        messages = [dict(zip(messages, values, strict=True)) for values in zip(*messages.values(), strict=True)]
    if not isinstance(messages, list):
        raise _Unusable("not-a-conversation", "the conversation is not a list of messages")
    if messages and all(isinstance(m, str) for m in messages):
        return [{"role": ("user", "assistant")[i % 2], "content": m} for i, m in enumerate(messages)]
    if messages and all(isinstance(m, dict) and "input" in m and "output" in m for m in messages):
        said = (("user", m["input"]) if half == 0 else ("assistant", m["output"]) for m in messages for half in (0, 1))
        return [{"role": role, "content": text} for role, text in said]
    return messages


def _turn(message: Any, number: int, prompt: bool) -> Turn:
    if not isinstance(message, dict):
        raise _Unusable("not-a-conversation", f"message {number} is not an object")
    role = message.get("role") or message.get("from")
    speaker = SPEAKERS.get(role.strip().lower(), "") if isinstance(role, str) else ""
    if speaker == "tool" or message.get("tool_calls") or message.get("function_call"):
        raise _Unusable("tool-call", f"message {number} calls a tool or is a tool's answer")
    if not speaker:
        known = "user, human, assistant, gpt, system"
        raise _Unusable("unknown-speaker", f"message {number} is said by {str(role)[:40]!r} (known: {known}, ...)")
    text = _text(next((message[k] for k in ("content", "value", "text") if message.get(k) is not None), None), number)
    if not text.strip():
        raise _Unusable("empty-turn", f"message {number} ({speaker}) is empty")
    weight = message.get("weight")
    return Turn(speaker, text, learn=weight is None or bool(weight), prompt=prompt)


def _text(content: Any, number: int) -> str:
    """A message's text; OpenAI writes it as a list of parts too."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        kind = str(part.get("type", "text")) if isinstance(part, dict) else "text"
        if "text" not in kind:
            raise _Unusable("not-text", f"message {number} holds {kind[:40]!r}, and only text can be learnt")
        if not isinstance(text, str):
            raise _Unusable("not-text", f"the text of message {number} is {_kind(text)}")
        texts.append(text)
    return "\n".join(texts)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", bool: "true/false"}.get(type(value), "a number")


def _thread(turns: Sequence[Turn], system: str) -> str:
    said = json.dumps([["system", system], *([turn.speaker, turn.text] for turn in turns)])
    return hashlib.sha256(said.encode()).hexdigest()[:16]
