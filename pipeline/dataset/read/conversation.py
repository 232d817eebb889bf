"""A conversation becomes one row for each answer; the earlier turns are its input. For templates of single rows.

Chat templates render whole conversations: for them `whole.py` makes one row of each.

    messages                     row 1                          row 2
    system:    S      ]          instruction: S + Q1            instruction: S + Q2
    user:      Q1     ] row 1    input:                         input:       User: Q1
    assistant: A1     ]                                                      Assistant: A1
    user:      Q2     ] row 2    output:      A1                output:      A2
    assistant: A2     ]          thread:      hash of all turns, the same in both

- instruction: the user's turn, with the system message and a blank line before it in every row. Several system
  messages at the start are one.
- input: the earlier turns, with the labels `User:` and `Assistant:` in every language, so that a chat can write the
  same form without guessing the language. More than `HISTORY` characters are cut to the last whole turns that fit,
  starting with a user's turn, at least one question and answer: LLaMA's 2,048 tokens are not longer, and the size of
  the rows would grow with the square of the number of turns. The row does not say that turns are missing, since the
  model would learn to write that.
- thread: only if there are earlier turns or several rows. The split keeps rows of one thread together, and the encoder
  may leave out their oldest turns.

Consecutive messages of one speaker are one turn, joined by a blank line. Assistant turns at the start are history only.
A user's turn without an answer at the end is rejected (`no-answer`). An answer with `weight: 0` (OpenAI: not to be
learnt) stays in the history and is rejected as a row. An empty message, an unknown speaker, a late system message, a
tool call or anything but text rejects that turn and all turns after it, which depend on it; the turns before stay.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.read.row import RawRow, kind_of_value

CONVERSATION = ("messages", "conversations", "conversation")  # the fields that hold one
SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter", "usr"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_call", "tool_call", "function_response"), "tool"),
}
HISTORY = 8_000  # characters of `input`
LABELS = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Turn:
    """Consecutive messages of one speaker.

    learn: false for an answer marked `weight: 0`. prompt: it belongs to the prompt, so no row is made of it.
    """

    speaker: str
    text: str
    learn: bool = True
    prompt: bool = False


class Unusable(Exception):
    """Rule and reason why a message, and with it all that follow, cannot be used."""


def conversation_rows(raw: RawRow, messages: Any, prompt: int = 0, system: str = "", task: str = "") -> list[RawRow]:
    """The rows of one conversation in Alpaca form, and one rejected row for its unusable turns; at least one row.

    Args:
        messages: a list of {role, content} or {from, value}, of {input, output} pairs or of texts by user and
            assistant in turn; such a list as JSON text; or an object of lists, as `datasets` stores it.
        prompt: so many messages belong to the prompt; answers among them are history and not rows.
    """
    turns: list[Turn] = []
    problem: tuple[str, str] | None = None
    try:
        for number, message in enumerate(listed(messages), 1):
            turn = _turn(message, number, prompt=number <= prompt)
            if turn.speaker == "system":
                if turns:
                    raise Unusable("late-system-message", f"message {number} is a system message in the middle")
                system = f"{system}\n\n{turn.text}" if system else turn.text
            elif turns and turns[-1].speaker == turn.speaker:
                joined = f"{turns[-1].text}\n\n{turn.text}"
                turns[-1] = Turn(turn.speaker, joined, turns[-1].learn and turn.learn, turns[-1].prompt and turn.prompt)
            else:
                turns.append(turn)
    except Unusable as error:
        problem = error.args[0], error.args[1]
        if turns and turns[-1].speaker == "assistant" and problem[0] == "tool-call":
            turns.pop()  # the answer depends on the tool's result
    return _cut(raw, turns, problem, system, task)


def _cut(raw: RawRow, turns: list[Turn], problem: tuple[str, str] | None, system: str, task: str) -> list[RawRow]:
    """One row for each answer. problem: why the turns after these could not be used."""
    answers = [i for i in range(1, len(turns)) if turns[i].speaker == "assistant" and not turns[i].prompt]
    several = len(answers) > 1
    thread = _thread(turns, system) if several or (answers and answers[0] > 1) else ""
    rows: list[RawRow] = []
    for k, (i, earlier) in enumerate(zip(answers, _transcripts(turns, answers), strict=True), 1):
        place = f"{raw.place}, turn {k}" if several else raw.place
        question = turns[i - 1].text
        texts = {
            "instruction": f"{system}\n\n{question}" if system else question,
            "input": earlier,
            "output": turns[i].text,
        }
        row = RawRow({**texts, "task": task, "thread": thread}, place)
        if not turns[i].learn:  # rejected as this row: the whole conversation would be written once for each answer
            row = row.rejected("weight-zero", "its message says weight: 0, not to be learnt")
        rows.append(row)
    if problem is None and turns and turns[-1].speaker == "user":
        problem = "no-answer", "the last turn is the user's, and nobody answers"
    elif problem is None and not rows:
        problem = "no-question", "the conversation has no user turn" if turns else "the conversation has no turns"
    if problem:
        rule, reason = problem
        more = "; it and what follows is left out" if rows and rule != "no-answer" else ""
        rows.append(raw.rejected(rule, reason + more, f"{raw.place}, turn {len(answers) + 1}" if rows else ""))
    return rows


def _transcripts(turns: Sequence[Turn], answers: Sequence[int]) -> Iterator[str]:
    """The turns before the question of each answer (given by its index), cut to the last `HISTORY` characters."""
    lines = [f"{LABELS[turn.speaker]}: {turn.text}" for turn in turns]
    ends = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
    start = 0
    for i in answers:
        while ends[i - 1] - ends[start] - 1 > HISTORY and start < i - 3:
            start += 2 if turns[start].speaker == "user" else 1
        yield "\n".join(lines[start : i - 1])


def growth(messages: Any, repeated: int = 0) -> int:
    """About how many characters the rows of a conversation have in addition to its own.

    Each row repeats the earlier turns, the first message (often the system's), and `repeated` other characters.
    """
    try:
        every = listed(messages)
    except Unusable:
        return 0
    if len(every) < 3:
        return 0
    return (len(every) // 2) * (min(characters(every), HISTORY) + characters(every[0]) + repeated)


def characters(value: Any) -> int:
    """Characters of all texts in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict | list):
        return sum(map(characters, value.values() if isinstance(value, dict) else value))
    return 0


def listed(messages: Any) -> list[Any]:
    """The messages as a list of objects.

    Raises:
        Unusable: they are no list.
    """
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            raise Unusable("not-a-conversation", "the conversation is text, not a list of messages") from None
    if isinstance(messages, dict) and messages and all(isinstance(v, list) for v in messages.values()):
        if len({len(v) for v in messages.values()}) != 1:
            raise Unusable("not-a-conversation", "the lists of the conversation are not equally long")
        messages = [dict(zip(messages, values, strict=True)) for values in zip(*messages.values(), strict=True)]
    if not isinstance(messages, list):
        raise Unusable("not-a-conversation", "the conversation is not a list of messages")
    if messages and all(isinstance(m, str) for m in messages):
        return [{"role": ("user", "assistant")[i % 2], "content": m} for i, m in enumerate(messages)]
    if messages and all(isinstance(m, dict) and "input" in m and "output" in m for m in messages):
        pairs = ((("user", m["input"]), ("assistant", m["output"])) for m in messages)
        return [{"role": role, "content": text} for pair in pairs for role, text in pair]
    return messages


def _turn(message: Any, number: int, prompt: bool) -> Turn:
    if not isinstance(message, dict):
        raise Unusable("not-a-conversation", f"message {number} is not an object")
    role = message.get("role") or message.get("from")
    speaker = SPEAKERS.get(role.strip().lower(), "") if isinstance(role, str) else ""
    if speaker == "tool" or message.get("tool_calls") or message.get("function_call"):
        raise Unusable("tool-call", f"message {number} calls a tool or is a tool's answer")
    if not speaker:
        known = "user, human, assistant, gpt, system"
        raise Unusable("unknown-speaker", f"message {number} is said by {str(role)[:40]!r} (known: {known}, ...)")
    text = text_of(message, f"message {number}")
    if not text.strip():
        raise Unusable("empty-turn", f"message {number} ({speaker}) is empty")
    weight = message.get("weight")
    return Turn(speaker, text, learn=weight is None or bool(weight), prompt=prompt)


def text_of(message: Mapping[str, Any], where: str, any_spelling: bool = False) -> str:
    """The text of a message, or of its parts, as OpenAI has them too; empty where there is none.

    Args:
        where: the message in reasons. any_spelling: types of parts in any spelling (Text, input_text, output_text) and
            other names of their text, which are accepted for chat templates alone.

    Raises:
        Unusable: something in it is no text.
    """
    content = next((message[k] for k in ("content", "value", "text") if message.get(k) is not None), None)
    if content is None or isinstance(content, str):
        return content or ""
    names = ("text", "content", "value") if any_spelling else ("text",)
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind, text = "text", part
        if isinstance(part, dict):
            kind = str(part.get("type", "text"))
            text = next((part[name] for name in names if part.get(name) is not None), None)
            if any_spelling:
                kind = str(part.get("type") or "text").strip().lower()
                text = text.get("value") if isinstance(text, dict) else text
        if "text" not in kind:
            raise Unusable("not-text", f"{where} holds {kind[:40]!r}, and only text can be learnt")
        if not isinstance(text, str):
            raise Unusable("not-text", f"the text of {where} is {kind_of_value(text)}")
        texts.append(text)
    return "\n".join(texts)


def _thread(turns: Sequence[Turn], system: str) -> str:
    content = json.dumps([["system", system], *([turn.speaker, turn.text] for turn in turns)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
