"""Rows as they are written to rows.jsonl and rejected.jsonl, each with its provenance under `generated`.

A reply often gives several rows. Its tokens and its cost are divided equally over the kept rows that were made of it,
so those of all rows sum up to what the replies cost of which a row was kept; what the others cost is in report.json.

    "generated": {"method": "self-instruct",
                  "teacher": {"kind": "api", "place": "localhost:8000", "model": "as the server names it"},
                  "seeds": [...], "prompt": ...,                origin of the draft, as its method states it
                  "requests": [key, ...], "time": of the last reply,
                  "tokens": {"prompt": 96.5, "completion": 41.0}, "cost": 0.00012, "currency": "USD"}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.filters import SIMILAR
from pipeline.synthesis.readiness import named, place_of
from pipeline.synthesis.receipts import Receipt, Receipts
from pipeline.synthesis.request import Draft

TEXTS = ("instruction", "input", "output", "task")


class RowWriter:
    """Turns drafts into rows.

    Args:
        receipts: of the journal. kept: the rows that are kept, among which a reply's cost is divided.
    """

    def __init__(self, settings: Synthesis, receipts: Receipts, kept: Iterable[Draft]) -> None:
        self.settings, self.receipts = settings, receipts
        self.rows_of = Counter(key for row in kept for key in set(row.requests))

    def row(self, draft: Draft) -> dict[str, Any]:
        """A kept row."""
        return {**_texts(draft), "generated": self.provenance(draft)}

    def rejected(self, draft: Draft) -> dict[str, Any]:
        """A rejected draft: rule, reason, the reply where it could not be used, and the kept row that it is like."""
        rule, reason = draft.rejected or ("", "")
        more: dict[str, Any] = {"raw": draft.raw} if draft.raw else {}
        if SIMILAR in draft.notes:
            more[SIMILAR] = draft.notes[SIMILAR]
        return {"rule": rule, "reason": reason, **_texts(draft), **more, "generated": self.provenance(draft)}

    def provenance(self, draft: Draft) -> dict[str, Any]:
        """Where a row comes from. Of a rejected draft: without tokens and cost, which kept rows bear."""
        replies = {key: self.receipts[key] for key in dict.fromkeys(draft.requests) if key in self.receipts}
        found = {
            "method": self.settings.method, "teacher": self._teacher(list(replies.values())), **draft.origin,
            "requests": list(draft.requests), "time": max((r.time for r in replies.values()), default=""),
        }  # fmt: skip
        return found if draft.rejected else {**found, **self._share(replies)}

    def _teacher(self, replies: list[Receipt]) -> dict[str, Any]:
        asked = self.settings.teacher
        models = dict.fromkeys(r.model for r in replies if r.model)
        places = dict.fromkeys(r.place for r in replies if r.place)
        return {
            "kind": asked.kind, "place": ", ".join(places) or place_of(asked),
            "model": ", ".join(models) or named(asked),
        }  # fmt: skip

    def _share(self, replies: Receipts) -> dict[str, Any]:
        """A row's part of the tokens and cost of its replies."""
        parts = [(r, self.rows_of[key] or 1) for key, r in replies.items()]
        costs = [r.cost / rows for r, rows in parts if r.cost is not None]
        known = len(costs) == len(parts) and bool(parts)
        return {
            "tokens": {
                "prompt": round(sum(r.prompt / rows for r, rows in parts), 1),
                "completion": round(sum(r.completion / rows for r, rows in parts), 1),
            },
            "cost": round(sum(costs), 8) if known else None,
            "currency": self.settings.teacher.price.currency if known else None,
        }


def _texts(draft: Draft) -> dict[str, str]:
    return {name: getattr(draft, name) for name in TEXTS}
