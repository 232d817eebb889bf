"""A question with the answers of base and tuned model, in our file and in AlpacaEval's.

    compare/answers.jsonl        {"id", "set", ..., "base": {"text", "stopped"}, "tuned": {...}}
    compare/alpaca_eval/*.json   [{"dataset", "instruction", "output", "generator"}, ...]

The second form is for `alpaca_eval --model_outputs tuned.json --reference_outputs base.json`, as
`load_or_convert_to_dataframe` of alpaca_eval 0.6.6 reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.comparison.questions import CompareQuestion
from pipeline.run.files import json_lines, sha256_json


@dataclass(frozen=True)
class ModelAnswer:
    """stopped: the answer ended with the end token, below the limit."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class AnswerPair:
    question: CompareQuestion
    base: ModelAnswer
    tuned: ModelAnswer

    def as_dict(self) -> dict[str, Any]:
        """A line of answers.jsonl."""
        return {**self.question.as_dict(), "base": asdict(self.base), "tuned": asdict(self.tuned)}

    @property
    def identical(self) -> bool:
        """Whether both answers are the same, white space at the ends aside."""
        return self.base.text.strip() == self.tuned.text.strip()


def digest_of(pairs: Sequence[AnswerPair]) -> str:
    """One hash over questions and answers."""
    return sha256_json([pair.as_dict() for pair in pairs])[:16]


def load_pairs(folder: Path) -> list[AnswerPair]:
    """The pairs that `make compare` wrote. folder: of its result."""
    pairs = []
    for row in json_lines(folder / "answers.jsonl"):
        base, tuned = ModelAnswer(**row.pop("base")), ModelAnswer(**row.pop("tuned"))
        pairs.append(AnswerPair(CompareQuestion(**row, place=""), base, tuned))
    return pairs


def alpaca_eval_rows(pairs: Sequence[AnswerPair], who: str, generator: str) -> list[dict[str, str]]:
    """The rows of one model. who: `base` or `tuned`. generator: the model's name on AlpacaEval's leaderboard."""
    return [
        {
            "dataset": pair.question.set,
            "instruction": merged(pair.question.instruction, pair.question.input),
            "output": (pair.base if who == "base" else pair.tuned).text,
            "generator": generator,
        }
        for pair in pairs
    ]


def merged(instruction: str, input: str) -> str:
    """Instruction and input in one text, as AlpacaEval, which has one field for both, merged them.

    Source: "{instruction}\\n\\n{input}", README of tatsu-lab/alpaca_eval, "Differences with AlpacaFarm".
    """
    return f"{instruction}\n\n{input}" if input.strip() else instruction
