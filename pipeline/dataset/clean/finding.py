"""What a rule looks at, and what it says when it found something."""

from __future__ import annotations

from typing import NamedTuple

FIELDS = ("instruction", "input", "output")
END = 2_000  # characters
EXCERPT = 60  # characters shown on either side of a finding


class Texts(NamedTuple):
    """The three texts of a row, as the rules before left them."""

    instruction: str
    input: str
    output: str

    @property
    def given(self) -> str:
        """The input, but empty where it holds the earlier turns of a conversation: these are not what is worked on."""
        return "" if self.has_history else self.input

    @property
    def has_history(self) -> bool:
        """Whether the input is what was said before, as `pipeline.dataset.read.conversation` writes it."""
        return self.input.startswith(("User: ", "Assistant: "))

    @property
    def asked(self) -> str:
        """The instruction, or where it is very long its two ends, one of which says what to do."""
        if len(self.instruction) <= 2 * END:
            return self.instruction
        return self.instruction[:END] + "\n" + self.instruction[-END:]


class Finding(NamedTuple):
    """What is wrong with a row.

    `texts` is the mended row, or None where only rejecting helps. `field` and `at` say where it was seen.
    """

    reason: str
    texts: Texts | None = None
    field: str = "output"
    at: int = 0

    def excerpt(self, texts: Texts) -> str:
        """The text around the finding, cut to a length that a report can show."""
        text: str = getattr(texts, self.field)
        start, end = max(0, self.at - EXCERPT), self.at + 2 * EXCERPT
        return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
