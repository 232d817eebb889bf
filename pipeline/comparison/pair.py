"""A question with both answers, as answers.jsonl holds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.comparison.questions import Question
from pipeline.run.files import sha256_json
from pipeline.run.folder import Run


@dataclass(frozen=True)
class Said:
    """A model's answer; stopped: it ended by itself."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Pair:
    question: Question
    base: Said
    tuned: Said

    def as_dict(self) -> dict[str, Any]:
        return {**self.question.as_dict(), "base": asdict(self.base), "tuned": asdict(self.tuned)}

    @property
    def identical(self) -> bool:
        """Whether there is nothing to choose between, white space at the ends aside."""
        return self.base.text.strip() == self.tuned.text.strip()


def digest_of(pairs: Sequence[Pair]) -> str:
    """One hash over questions and answers."""
    return sha256_json([pair.as_dict() for pair in pairs])[:16]


def load(run: Run) -> list[Pair]:
    """The pairs that `make compare` wrote."""
    found = []
    with open(run.folder("compare") / "answers.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            base, tuned = Said(**row.pop("base")), Said(**row.pop("tuned"))
            found.append(Pair(Question(**row, place=""), base, tuned))
    return found
