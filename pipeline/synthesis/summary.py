"""What `generate` says at its end: rows, what was rejected, spending, why it ended and what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.generated import money
from pipeline.run.next_command import command_without, next_command
from pipeline.run.width import aligned
from pipeline.synthesis.generation import Result
from pipeline.synthesis.journal import Journal

MOST = 8  # rules that are listed; report.html has all


@dataclass(frozen=True)
class Spent:
    """Replies, tokens and money. unpriced: replies without a price."""

    replies: int
    tokens: int
    cost: float
    unpriced: int

    @classmethod
    def of(cls, journal: Journal) -> Spent:
        """All that a run has spent so far."""
        return cls(len(journal), journal.tokens, journal.cost, journal.unpriced)

    def since(self, before: Spent) -> Spent:
        """What was spent after `before`."""
        return Spent(
            self.replies - before.replies, self.tokens - before.tokens, self.cost - before.cost,
            self.unpriced - before.unpriced,
        )  # fmt: skip

    def text(self, currency: str) -> str:
        """Such as `120 replies, 41,200 tokens, 0.31 USD`."""
        head = f"{self.replies:,} {'reply' if self.replies == 1 else 'replies'}, {self.tokens:,} tokens"
        if not self.replies:
            return "nothing"
        if self.unpriced == self.replies:
            return f"{head}, cost not known (no price is set)"
        without = f" and {self.unpriced:,} replies without a price" if self.unpriced else ""
        return f"{head}, {money(self.cost, currency)}{without}"


def lines(settings: Synthesis, result: Result, now: Spent, before: Spent, folder: Path) -> list[str]:
    """The summary as lines for the terminal.

    Args:
        now, before: spending at the end, and before this command. folder: of the rows.
    """
    share = f", {100 * len(result.rows) / result.drafts:.0f} % of {result.drafts:,} drafts" if result.drafts else ""
    currency = settings.teacher.price.currency
    said = [f"generate: {len(result.rows):,} of {settings.rows:,} rows{share}: {folder / 'rows.jsonl'}"]
    said += _rejected(result)
    here = now.since(before)
    command = "all in this command" if here == now and now.replies else f"in this command {here.text(currency)}"
    said.append(f"spent: {now.text(currency)}; {command}")
    said += _ended(settings, result)
    said.append(f"Yield, novelty, samples, spending: {folder / 'report.html'}")

    return said


def _rejected(result: Result) -> list[str]:
    counts = result.counts().most_common()
    if not counts:
        return []
    rows = [(f"      {rule}", f"{n:,}", f"{100 * n / result.drafts:.1f} %") for rule, n in counts[:MOST]]
    if rest := sum(n for _, n in counts[MOST:]):
        rows.append(("      other rules", f"{rest:,}", f"{100 * rest / result.drafts:.1f} %"))
    return [*aligned([("      rejected by", "drafts", "share"), *rows]).split("\n")]


def _ended(settings: Synthesis, result: Result) -> list[str]:
    """Why there are not more rows, and the command that adds some."""
    said: list[str] = []
    again = next_command("generate")
    if result.ended == "budget":
        said.append(
            f"generate: the budget of {settings.budget} ended it before {settings.rows:,} rows. The rows so far are "
            "written; raise synthesis.budget and run the same command to go on: replies so far are not paid again."
        )
    elif result.ended == "journal":
        go_on = command_without("generate", "synthesis.replay")
        said.append(f"generate: the journal holds no more replies. To ask for more:\n  {go_on}")
    elif result.ended == "yield":
        said.append(
            "generate: the replies behind these gave no row any more: take another teacher or more seeds, or lower "
            "synthesis.novelty."
        )
    elif result.ended == "items":
        said.append("generate: every item was used; more rows need more sources, documents or passages.")
    if result.lost:
        plural = "request" if result.lost == 1 else "requests"
        said.append(f"generate: {result.lost:,} {plural} failed after all tries. To try again what is missing:\n  "
                    f"{again}")  # fmt: skip
    elif result.unfinished and result.ended not in ("rows", "journal"):
        said.append(f"generate: {result.unfinished:,} items are not finished.")
    return said
