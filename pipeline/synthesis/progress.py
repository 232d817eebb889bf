"""The line of progress while rows are made: rows kept, time left, spending, share kept, rows a minute."""

from __future__ import annotations

import time

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.generated import money
from pipeline.run.progress import Bar
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.generation import Result


class Progress:
    """Called with the result so far; redraws the bar.

    The time left and the rate count from the first reply that was asked for now: rows out of the journal come at once.
    """

    def __init__(self, bar: Bar, asker: Asker, settings: Synthesis) -> None:
        self.bar, self.asker, self.currency = bar, asker, settings.teacher.price.currency

    def __call__(self, result: Result) -> None:
        rows = len(result.rows)
        if not self.asker.asked:
            self.bar.initial, self.bar.started = rows, time.monotonic()
        self.bar.note = self.note(result)
        self.bar.update(rows - self.bar.n)

    def note(self, result: Result) -> str:
        """Such as `0.31 USD, 79 % kept, 146/min`."""
        parts = [self.spent()]
        if result.drafts:
            parts.append(f"{100 * len(result.rows) / result.drafts:.0f} % kept")
        seconds, made = time.monotonic() - self.bar.started, len(result.rows) - self.bar.initial
        if made > 0 and seconds > 1:
            parts.append(f"{60 * made / seconds:,.0f}/min")
        return ", ".join(parts)

    def spent(self) -> str:
        """Money where every reply has a price, else tokens."""
        journal = self.asker.journal
        if len(journal) and not journal.unpriced:
            return money(journal.cost, self.currency)
        return thousands(journal.tokens)


def thousands(tokens: int) -> str:
    """Such as `950 tokens`, `41k tokens` or `1.2M tokens`."""
    if tokens < 10_000:
        return f"{tokens:,} tokens"
    return f"{tokens / 1000:.0f}k tokens" if tokens < 1_000_000 else f"{tokens / 1e6:.1f}M tokens"
