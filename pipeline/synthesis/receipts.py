"""What the journal says of each reply but its text: who gave it, when, for how much; for provenance and sums."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.run.files import disk_errors


@dataclass(frozen=True)
class Receipt:
    """A reply without its text.

    Attributes:
        purpose: of its request. model: as the server names it. place: host that was asked, empty where not noted.
        prompt, completion: tokens. cost: in the currency of the price; None where no price was known.
        time: when it came, ISO 8601 in UTC. seconds: that it took.
    """

    purpose: str = ""
    model: str = ""
    place: str = ""
    prompt: int = 0
    completion: int = 0
    cost: float | None = None
    time: str = ""
    seconds: float = 0.0


Receipts = Mapping[str, Receipt]


def read(journal: Path) -> dict[str, Receipt]:
    """The receipts of a journal by request, in the order of the replies; empty where there is no journal yet."""
    receipts: dict[str, Receipt] = {}
    if not journal.is_file():
        return receipts
    with disk_errors(journal.parent), open(journal, "rb") as file:
        for line in file:
            if not line.startswith(b'{"sent"') and (entry := _receipt(line)):
                receipts[entry[0]] = entry[1]
    return receipts


def _receipt(line: bytes) -> tuple[str, Receipt] | None:
    """Key and receipt; None of another line, or of a damaged one, which the journal itself reports."""
    try:
        entry: dict[str, Any] = json.loads(line)
        return str(entry["reply"]), Receipt(
            str(entry.get("purpose", "")), str(entry.get("model", "")), str(entry.get("place", "")),
            int(entry["prompt_tokens"]), int(entry["completion_tokens"]), entry.get("cost"),
            str(entry.get("time", "")), float(entry.get("seconds") or 0.0),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@dataclass(frozen=True)
class Total:
    """Sums over replies. cost: of those with a price. unpriced: number of the others."""

    replies: int = 0
    prompt: int = 0
    completion: int = 0
    cost: float = 0.0
    unpriced: int = 0

    @classmethod
    def of(cls, receipts: Iterable[Receipt]) -> Total:
        chosen = list(receipts)
        return cls(
            len(chosen), sum(r.prompt for r in chosen), sum(r.completion for r in chosen),
            sum(r.cost for r in chosen if r.cost is not None), sum(r.cost is None for r in chosen),
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    def as_dict(self) -> dict[str, Any]:
        """For report.json; `cost` is null where no reply had a price."""
        cost = None if self.replies and self.unpriced == self.replies else round(self.cost, 6)
        return {
            "replies": self.replies, "prompt_tokens": self.prompt, "completion_tokens": self.completion,
            "cost": cost, "unpriced": self.unpriced,
        }  # fmt: skip


def by_purpose(receipts: Receipts) -> dict[str, Total]:
    """Sums of each purpose, the most tokens first."""
    groups: dict[str, list[Receipt]] = {}
    for receipt in receipts.values():
        groups.setdefault(receipt.purpose or "request", []).append(receipt)
    totals = {purpose: Total.of(group) for purpose, group in groups.items()}
    return dict(sorted(totals.items(), key=lambda item: (-item[1].tokens, item[0])))
