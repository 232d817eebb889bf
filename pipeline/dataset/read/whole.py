"""A conversation stays one row with all its turns, for chat templates.

    messages                                   the row
    system:    S                               system: S
    user:      Q1                              turns:  user Q1
    assistant: A1, weight: 0                           assistant A1 (not learnt)
    user:      Q2                                      user Q2
    assistant: calls a tool      tool: R               assistant (calls), tool R
    assistant: A2                                      assistant A2
    user:      Q3                              rejected: no-answer

- Consecutive messages of the user are one turn, joined by a blank line, and so are those of the assistant: templates
  demand that turns alternate.
- An answer carries no loss if its `weight` is 0, if it belongs to the prompt (TRL's prompt and completion), or if it
  comes before the first question.
- A late system message, an empty message, an unknown speaker, anything but text, a result without a call and a call
  without a result end the conversation: the turns before, up to the last answer, are the row, and the rest is a
  rejected row with the reason. So is a question at the end without an answer. A call at the very end is an answer, as
  in OpenAI's examples of fine-tuning. A result may also follow a call that is written as text (`hermes.py`).
- One question with one answer is a plain row, so that it is compared with plain rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset.read.conversation import SPEAKERS, Unusable, listed, text_of
from pipeline.dataset.read.hermes import calls_in
from pipeline.dataset.read.row import RawRow, Whole
from pipeline.dataset.read.tool_calls import CALLERS, BadTools, OpenCalls, calls_of
from pipeline.dataset.turn import Turn

KEPT = ("name", "tool_call_id", "reasoning_content")  # further fields of a message that templates read


def whole_conversation(
    raw: RawRow, messages: Any, prompt: int = 0, system: str = "", task: str = "", tools: Sequence[Any] = (),
    needs_answer: bool = True,
) -> list[RawRow]:  # fmt: skip
    """The row of one conversation, and a rejected row for what cannot be used of it; at least one of the two.

    Args:
        messages, prompt: as of `conversation.conversation_rows`.
        system: a system message beside the conversation. tools: descriptions of functions.
        needs_answer: false for question sets: a question at the end has an empty answer instead of none.
    """
    reader = _Reader(system)
    problem = reader.read_all(messages, prompt)
    if problem is None and not needs_answer:
        reader.close()
    place = f"{raw.place}, message {reader.number}"
    turns = reader.answered(cut=problem is not None)
    if not any(turn.learn for turn in turns if turn.role == "assistant"):
        problem = problem or reader.why_nothing(turns)
        return [raw.rejected(*problem)]
    rows = [RawRow(_value(turns, reader.system, task, tools), raw.place)]
    if problem is None and len(turns) < len(reader.turns):
        problem, place = reader.why_open(), f"{raw.place}, message {reader.number_of(len(turns)) + 1}"
    elif problem:
        problem = problem[0], f"{problem[1]}; it and what follows is left out"
    return [*rows, raw.rejected(*problem, place)] if problem else rows


def _value(turns: Sequence[Turn], system: str, task: str, tools: Sequence[Any]) -> Whole:
    first = next(turn.content for turn in turns if turn.role == "user")
    texts = {"instruction": first, "input": "", "output": turns[-1].content, "task": task}
    is_plain = len(turns) == 2 and all(turn.learn and not turn.more for turn in turns) and not tools
    return Whole(
        texts
        | ({"system": system} if system else {})
        | ({} if is_plain else {"turns": [turn.as_dict() for turn in turns]})
        | ({"tools": list(tools)} if tools else {})
    )


@dataclass
class _Reader:
    """Reads messages one after another.

    system: its text so far. number: of the last message that was read, from 1. has_user: whether one was the user's.
    open: calls without a result.
    """

    system: str
    turns: list[Turn] = field(default_factory=list)
    number: int = 0
    has_user: bool = False
    open: OpenCalls = field(default_factory=OpenCalls)
    _numbers: list[int] = field(default_factory=list)  # of the last message of each turn

    def read_all(self, messages: Any, prompt: int) -> tuple[str, str] | None:
        """Rule and reason why a message, and with it all that follow, cannot be used; None if all can be."""
        try:
            for number, message in enumerate(listed(messages), 1):
                self.number = number
                self._read(message, number <= prompt)
        except Unusable as error:
            rule, reason = error.args
            if rule == "result-without-call" and self.turns and self.turns[-1].role == "assistant":
                self.turns.pop()  # the call is written as text there
            return rule, reason
        if self.open.missing and self.open.is_answered:
            return "call-without-result", f"the call of {self.open.missing} has no result"
        return None

    def _read(self, message: Any, is_prompt: bool) -> None:
        where = f"message {self.number}"
        if not isinstance(message, dict):
            raise Unusable("not-a-conversation", f"{where} is not an object")
        role = message.get("role") or message.get("from")
        said = role.strip().lower() if isinstance(role, str) else ""
        speaker = "assistant" if said in CALLERS else SPEAKERS.get(said, "")
        if not speaker:
            known = "user, human, assistant, gpt, system, tool"
            raise Unusable("unknown-speaker", f"{where} is said by {str(role)[:40]!r} (known: {known}, ...)")
        content = text_of(message, where, any_spelling=True)
        if speaker == "system":
            self._add_system(content, where)
            return
        more = {name: message[name] for name in KEPT if message.get(name)}
        try:
            calls = calls_of(message, content, said) if speaker == "assistant" else []
        except BadTools as error:
            raise Unusable("tool-call", f"{where} {error}") from None
        if calls:
            more["tool_calls"] = calls
        content = "" if said in CALLERS else content
        if not content.strip() and not calls and speaker != "tool":
            raise Unusable("empty-turn", f"{where} ({speaker}) is empty")
        weight = message.get("weight")
        learn = (weight is None or bool(weight)) and not (speaker == "assistant" and (is_prompt or not self.has_user))
        self._check_calls(speaker, more, where)
        self._add(Turn(speaker, content, learn, more))
        self.has_user = self.has_user or speaker == "user"

    def _add_system(self, content: str, where: str) -> None:
        if self.turns:
            raise Unusable("late-system-message", f"{where} is a system message in the middle")
        if content.strip():
            self.system = f"{self.system}\n\n{content}" if self.system else content

    def _check_calls(self, speaker: str, more: Mapping[str, Any], where: str) -> None:
        if speaker == "tool":
            if not self.open.answer(more.get("tool_call_id")) and not self._follows_text_call():
                raise Unusable("result-without-call", f"{where} is a tool result without its call")
        elif self.open.missing:
            raise Unusable("call-without-result", f"{where} follows a call of {self.open.missing} without its result")
        elif "tool_calls" in more:
            self.open.call(more["tool_calls"])

    def _follows_text_call(self) -> bool:
        """Whether the latest turn that is no result calls tools in its text (`hermes.py`)."""
        turn = next((turn for turn in reversed(self.turns) if turn.role != "tool"), None)
        return turn is not None and turn.role == "assistant" and calls_in(turn.content) is not None

    def _add(self, turn: Turn) -> None:
        last = self.turns[-1] if self.turns else None
        if last is None or last.role != turn.role or turn.role == "tool":
            self.turns.append(turn)
            self._numbers.append(self.number)
            return
        more = {**last.more, **turn.more}
        if last.more.get("name") != turn.more.get("name"):
            more.pop("name", None)
        content = "\n\n".join(filter(None, (last.content, turn.content)))
        self.turns[-1] = Turn(turn.role, content, last.learn and turn.learn, more)
        self._numbers[-1] = self.number

    def close(self) -> None:
        """Adds an empty answer where the last turn has none."""
        if self.has_user and self.turns[-1].role != "assistant":
            self._add(Turn("assistant", ""))

    def answered(self, cut: bool) -> list[Turn]:
        """The turns up to the last answer. cut: messages follow that cannot be used, so that a call is no answer."""
        turns = list(self.turns)
        while turns and not _is_answer(turns[-1], is_end=not cut and len(turns) == len(self.turns)):
            turns.pop()
        return turns

    def number_of(self, turns: int) -> int:
        """The number of the last message of the first so many turns."""
        return self._numbers[turns - 1]

    def why_open(self) -> tuple[str, str]:
        """Rule and reason why turns at the end have no answer."""
        whose = "the user's" if self.turns[-1].role == "user" else "a tool's"
        return "no-answer", f"the last turn is {whose}, and nobody answers"

    def why_nothing(self, turns: Sequence[Turn]) -> tuple[str, str]:
        """Rule and reason why no turn can be learnt, where no message is at fault."""
        if not self.has_user:
            return "no-question", "the conversation has no user turn" if self.turns else "the conversation has no turns"
        asked = next(i for i, turn in enumerate(self.turns) if turn.role == "user")
        if any(turn.role == "assistant" for turn in turns[asked:]):
            return "weight-zero", "all its answers say weight: 0, not to be learnt"
        return self.why_open()


def _is_answer(turn: Turn, is_end: bool) -> bool:
    return turn.role == "assistant" and (is_end or "tool_calls" not in turn.more)
