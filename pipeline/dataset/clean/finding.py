"""Input and result of a rule: the texts of a row, and what is wrong with them."""

from __future__ import annotations

from typing import NamedTuple

FIELDS = ("instruction", "input", "output")
END = 2_000  # characters
EXCERPT = 60  # characters shown on either side of a finding


class Texts(NamedTuple):
    """The three texts of a row, after the rules before."""

    instruction: str
    input: str
    output: str

    @property
    def given(self) -> str:
        """The input; empty if it holds the earlier turns of a conversation, which are not the text to work on."""
        return "" if self.has_history else self.input

    @property
    def has_history(self) -> bool:
        """Whether the input is the history that `pipeline.dataset.read.conversation` writes."""
        return self.input.startswith(("User: ", "Assistant: "))

    @property
    def asked(self) -> str:
        """The instruction; of a very long one its two ends, one of which states the task."""
        if len(self.instruction) <= 2 * END:
            return self.instruction
        return self.instruction[:END] + "\n" + self.instruction[-END:]


class FollowUp(Texts):
    """A question and its answer from the middle of a conversation, whose earlier turns are not in `input`."""

    __slots__ = ()

    @property
    def has_history(self) -> bool:
        return True


class Finding(NamedTuple):
    """What is wrong with a row. texts: the fixed row, or None if it must be rejected. field, at: where it was found."""

    reason: str
    texts: Texts | None = None
    field: str = "output"
    at: int = 0

    def excerpt(self, texts: Texts) -> str:
        """The text around the finding, cut for reports."""
        text: str = getattr(texts, self.field)
        start, end = max(0, self.at - EXCERPT), self.at + 2 * EXCERPT
        return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
