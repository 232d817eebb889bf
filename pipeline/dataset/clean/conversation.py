"""The rules on a conversation that stays whole: every question with its answer, and every other text by itself.

    system       by itself
    user   Q1    ] a pair
    assistant A1 ]
    user   Q2      ] a pair
    assistant      |             a call of a tool: by itself
    tool   R       |             by itself
    assistant A2   ]

The rules see the second question as a later turn, so that "continue" and "the text above" are not faults. Texts by
themselves see only the rules in `ALONE`: a refusal that carries no loss is no reason to reject what follows. A fix
changes that turn alone; a rejection rejects the conversation, since the later turns depend on that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config.schema import Action
from pipeline.dataset.clean.finding import FollowUp, Texts
from pipeline.dataset.clean.rule import Change, Cleaned, Cleaner
from pipeline.dataset.example import Example

QUOTED = ("mojibake", "control-characters", "personal-data", "replacement-character", "template-markers")
ALONE = (*QUOTED, "literal-escapes")  # rules that need one text only; in results of tools `\n` is JSON


@dataclass(frozen=True, slots=True)
class TurnChange:
    """What a rule did to texts of a conversation. turns: their numbers from 1, 0 for the system message."""

    change: Change
    turns: tuple[int, ...]


class ConversationCleaner:
    """Applies the rules to one conversation, or to a row with a system message. Picklable.

    Raises:
        UserError: as of `Cleaner`.
    """

    def __init__(self, clean: Literal["standard", "none"], rules: Mapping[str, Action]) -> None:
        self._pairs = Cleaner(clean, rules)
        actions = self._pairs.actions
        self._alone = Cleaner("none", {name: actions[name] for name in ALONE})
        self._quoted = Cleaner("none", {name: actions[name] for name in QUOTED})

    def __call__(
        self, example: Example, expected: str = ""
    ) -> tuple[Example, list[TurnChange], tuple[str, str] | None]:
        """The cleaned example, what was changed or flagged, and the rule and reason if it must be rejected."""
        work = _Work(example)
        if example.system:
            work.take(self._alone(Texts("", "", example.system)), (0,))
        if not example.turns:
            cleaned = self._pairs(Texts(example.instruction, example.input, example.output), expected)
            return work.plain(cleaned)
        asked = answers_by_question(example)
        for question, answer in asked:
            kind = FollowUp if question or answer > question + 1 else Texts
            texts = kind(example.turns[question].content, "", example.turns[answer].content)
            work.take(self._pairs(texts, expected), (question + 1, answer + 1))
        paired = {i for pair in asked for i in pair}
        for i, turn in enumerate(example.turns):
            if i not in paired:
                cleaner = self._quoted if turn.role == "tool" else self._alone
                work.take(cleaner(Texts("", "", turn.content)), (i + 1,))
        return work.result()


def answers_by_question(example: Example) -> list[tuple[int, int]]:
    """The positions of each question and the answer to it that is learnt, in `turns`."""
    pairs: list[tuple[int, int]] = []
    question = -1
    for i, turn in enumerate(example.turns):
        if turn.role == "user":
            question = i
        elif turn.role == "assistant" and turn.learn and "tool_calls" not in turn.more and question >= 0:
            pairs.append((question, i))
            question = -1
    return pairs


class _Work:
    """A conversation while its texts are cleaned one after another."""

    def __init__(self, example: Example) -> None:
        self.example = example
        self.texts = {0: example.system} | {i: turn.content for i, turn in enumerate(example.turns, 1)}
        self.changes: list[TurnChange] = []
        self.rejected: tuple[str, str] | None = None

    def take(self, cleaned: Cleaned, turns: Sequence[int]) -> None:
        """Adds the result of the rules. turns: the number of the text, or those of a question and its answer."""
        if self.rejected:
            return
        fields = dict(zip(("instruction", "output") if len(turns) > 1 else ("output",), turns, strict=True))
        if cleaned.rejected:
            rule, reason = cleaned.rejected
            self.rejected = rule, f"{_named(turns)}: {reason}"
            return
        for change in cleaned.changes:
            numbers = tuple(fields[name] for name in change.before if name in fields)
            self.changes.append(TurnChange(_renamed(change, fields), numbers))
        for name, number in fields.items():
            text = getattr(cleaned.texts, name)
            if not text.strip() and self.texts[number].strip():
                self.rejected = "empty-turn", f"{_named([number])}: no text is left after cleaning"
            self.texts[number] = text

    def plain(self, cleaned: Cleaned) -> tuple[Example, list[TurnChange], tuple[str, str] | None]:
        """The result for a row of one question and answer with a system message."""
        e = self.example
        example = Example.of(
            *cleaned.texts, source=e.source, task=e.task, exact=e.exact, thread=e.thread, system=self.texts[0]
        )
        changes = [*self.changes, *(TurnChange(change, ()) for change in cleaned.changes)]
        return example, changes, self.rejected or cleaned.rejected

    def result(self) -> tuple[Example, list[TurnChange], tuple[str, str] | None]:
        e = self.example
        turns = [replace(turn, content=self.texts[i]) for i, turn in enumerate(e.turns, 1)]
        if tuple(turns) != e.turns or self.texts[0] != e.system:
            more = {"source": e.source, "task": e.task, "exact": e.exact, "tools": e.tools}
            e = Example.whole(turns, system=self.texts[0], **more)  # type: ignore[arg-type]
        return e, self.changes, self.rejected


def _renamed(change: Change, fields: Mapping[str, int]) -> Change:
    """The change with the names of turns in place of those of a row's fields."""
    before, after = (
        {_named([fields[name]]): text for name, text in texts.items() if name in fields}
        for texts in (change.before, change.after)
    )
    return replace(change, before=before, after=after, reason=f"{', '.join(before)}: {change.reason}")


def _named(turns: Sequence[int]) -> str:
    if len(turns) > 1:
        return f"turns {turns[0]} and {turns[1]}"
    return f"turn {turns[0]}" if turns[0] else "system"
