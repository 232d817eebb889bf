"""Answers to held-out instructions, compared with the one right answer.

exact: answer and reference are equal, white space at the ends aside. contained: the reference is part of the answer,
whatever the model says around it. stopped: the answer ended with the end token, below the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.dataset.example import Example
from pipeline.evaluation.scores import mean
from pipeline.model.generate import greedy
from pipeline.prompt.any_encoder import AnyEncoder


@dataclass(frozen=True)
class Answer:
    """An instruction, its reference (`expected`), and the model's answer (`text`)."""

    instruction: str
    input: str
    expected: str
    text: str
    stopped: bool
    task: str

    @property
    def exact(self) -> bool:
        return self.text.strip() == self.expected.strip()

    @property
    def contained(self) -> bool:
        return self.expected.strip() in self.text

    def as_dict(self) -> dict[str, Any]:
        """As results.json and probes.json have it, where the text is called `said`."""
        fields = {"said" if name == "text" else name: value for name, value in asdict(self).items()}
        return {**fields, "exact": self.exact, "contained": self.contained}


def answer(
    model: Any, encoder: AnyEncoder, examples: Sequence[Example], max_new_tokens: int, what: str
) -> list[Answer]:
    """Greedy answers to examples, in their order. what: for the progress bar.

    Raises:
        NotFinite: see `greedy`; its rows are indices of examples.
    """
    prompts = [encoder.prompt_for(e) for e in examples]
    new_ids = greedy(model, prompts, end_id=encoder.end_id, max_new_tokens=max_new_tokens, what=what)
    return [read(encoder, example, ids) for example, ids in zip(examples, new_ids, strict=True)]


def read(encoder: AnyEncoder, example: Example, ids: Sequence[int]) -> Answer:
    """The answer from its new ids."""
    text, stopped = text_of(encoder, ids)
    return Answer(example.instruction, example.input, example.output, text, stopped, example.task)


def text_of(encoder: AnyEncoder, ids: Sequence[int]) -> tuple[str, bool]:
    """The text of an answer's new ids, without what the template puts in front of it, and whether it ended with the
    end token."""
    stopped = bool(ids) and ids[-1] == encoder.end_id
    text = encoder.tokenizer.decode(list(ids[:-1] if stopped else ids))
    return text.removeprefix(encoder.template.answer_prefix), stopped


def marks(answers: Sequence[Answer]) -> dict[str, Any]:
    """Number of answers, shares of exact, contained and stopped ones, and the standard error of the exact share."""
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
