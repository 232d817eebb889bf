"""Answers to held-out instructions, marked against the one right answer.

exact: the answer, white space at its ends aside, is the reference. contained: the reference stands somewhere in the
answer, which forgives a model that chats around it. stopped: the answer ended by itself, below the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.dataset.example import Example
from pipeline.evaluation.shots import Shots
from pipeline.evaluation.standard_error import mean
from pipeline.model.generate import greedy
from pipeline.prompt.encode import Encoder


@dataclass(frozen=True)
class Answer:
    """One instruction, what was expected, and what the model said."""

    instruction: str
    input: str
    expected: str
    said: str
    stopped: bool
    task: str

    @property
    def exact(self) -> bool:
        return self.said.strip() == self.expected.strip()

    @property
    def contained(self) -> bool:
        return self.expected.strip() in self.said

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "exact": self.exact, "contained": self.contained}


def answer(
    model: Any,
    encoder: Encoder,
    examples: Sequence[Example],
    max_new_tokens: int,
    what: str,
    shots: Shots | None = None,
) -> list[Answer]:
    """Greedy answers to examples, in their order.

    Args:
        shots: puts training rows in front of each.

    Raises:
        NotFinite: see `greedy`; its rows are numbers of examples.
    """
    prompts = [shots.prompt(e) if shots else encoder.prompt(e.instruction, e.input) for e in examples]
    new_ids = greedy(model, prompts, end_id=encoder.end_id, max_new_tokens=max_new_tokens, what=what)
    return [read(encoder, example, ids) for example, ids in zip(examples, new_ids, strict=True)]


def read(encoder: Encoder, example: Example, ids: Sequence[int]) -> Answer:
    """The answer that new ids are."""
    stopped = bool(ids) and ids[-1] == encoder.end_id
    said = encoder.tokenizer.decode(list(ids[:-1] if stopped else ids)).removeprefix(encoder.template.answer_prefix)
    return Answer(example.instruction, example.input, example.output, said, stopped, example.task)


def marks(answers: Sequence[Answer]) -> dict[str, Any]:
    """Shares of exact, contained and stopped answers, the standard error of the exact one, and their number."""
    n = len(answers)
    if not n:
        return {"answers": 0}
    exact, error = mean([float(a.exact) for a in answers])
    return {
        "answers": n,
        "exact": exact,
        "exact_standard_error": None if math.isnan(error) else error,
        "contained": sum(a.contained for a in answers) / n,
        "stopped": sum(a.stopped for a in answers) / n,
    }
