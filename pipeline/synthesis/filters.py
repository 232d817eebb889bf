"""Filters of drafts: cleaning rules, and novelty against everything that passed."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.clean.rule import Cleaner, Texts
from pipeline.synthesis.request import Draft


class DraftFilters:
    """The filters of a run."""

    def __init__(self, settings: Synthesis) -> None:
        self.settings = settings
        self._clean = Cleaner("standard", settings.rules)
        self._seen: set[str] = set()

    def draft(self, draft: Draft) -> Draft:
        """A draft of the first phase, rejected where its instruction is not novel."""
        text = " ".join(draft.instruction.lower().split())
        if text in self._seen:
            return draft.reject("not-novel", "the same instruction was kept before")
        self._seen.add(text)
        return draft

    def row(self, row: Draft) -> Draft:
        """A finished row after the cleaning rules."""
        cleaned = self._clean(Texts(row.instruction, row.input, row.output), "")
        if cleaned.rejected:
            return row.reject(*cleaned.rejected)
        texts = cleaned.texts
        return replace(row, instruction=texts.instruction, input=texts.input, output=texts.output)
