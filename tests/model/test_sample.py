"""Sampled answers: each row by its own seed."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Model
from pipeline.model import sample as sampling
from pipeline.model.base import resolve
from pipeline.model.generate import greedy
from pipeline.model.load import load_base
from pipeline.model.memory import OutOfMemory
from pipeline.model.sample import Question, repeats, sample


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    settings = Model(base=str(base), dtype="fp32")
    return load_base(settings, resolve(settings), 0)


QUESTIONS = [Question([1, *range(20, 20 + n)], 12, 1.0, seed=n) for n in (3, 9, 5, 7)]
NO_END = (399,)


def test_a_row_does_not_depend_on_its_batch(model: Any) -> None:
    together = sample(model, QUESTIONS, NO_END)
    assert together == [sample(model, [question], NO_END)[0] for question in QUESTIONS]
    assert sample(model, QUESTIONS[::-1], NO_END) == together[::-1]
    assert len({tuple(answer.ids) for answer in together}) == len(together)


def test_the_seed_decides(model: Any) -> None:
    first = sample(model, [QUESTIONS[0]], NO_END)
    assert sample(model, [QUESTIONS[0]], NO_END) == first
    assert sample(model, [replace(QUESTIONS[0], seed=2**64 - 1)], NO_END) != first


def test_temperature_0_is_greedy(model: Any) -> None:
    mixed = [replace(question, temperature=n % 2 and 1.0) for n, question in enumerate(QUESTIONS)]
    answers = sample(model, mixed, NO_END)
    wanted = greedy(model, [q.ids for q in QUESTIONS], end_id=NO_END[0], max_new_tokens=12, what="test")
    assert answers[0].ids == wanted[0]
    assert answers[2].ids == wanted[2]
    assert answers[1] == sample(model, QUESTIONS, NO_END)[1]


def test_each_row_has_its_own_limit(model: Any) -> None:
    limits = [0, 1, 12, 5]
    answers = sample(model, [replace(q, max_new_tokens=n) for q, n in zip(QUESTIONS, limits, strict=True)], NO_END)
    assert [answer.tokens for answer in answers] == limits
    assert {answer.end for answer in answers} == {"length"}
    whole = sample(model, QUESTIONS, NO_END)
    assert [a.ids for a in answers] == [w.ids[:n] for w, n in zip(whole, limits, strict=True)]


def test_an_end_id_ends_a_row(model: Any) -> None:
    whole = sample(model, QUESTIONS, NO_END)[1].ids
    end = whole[4]
    answer = sample(model, QUESTIONS, (0, end))[1]
    assert answer.ids == whole[: whole.index(end)]
    assert (answer.end, answer.tokens) == ("stop", whole.index(end) + 1)


def test_the_context_ends_a_row(model: Any) -> None:
    answer = sample(model, [Question([1] * 508, 12, 1.0, 0), Question([1] * 512, 12, 1.0, 0)], NO_END)
    assert [(a.tokens, a.end) for a in answer] == [(4, "length"), (0, "length")]


def test_frequencies_are_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.0, 0.125, 0.125])
    questions = [Question([0], 1, 1.0, seed) for seed in range(4000)]
    assert _frequencies(probabilities, questions, 1.0) == pytest.approx(probabilities.tolist(), abs=0.025)


def test_temperature_and_top_p_narrow() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.0, 0.125, 0.125])
    questions = [Question([0], 1, 0.5, seed) for seed in range(2000)]
    squared = probabilities**2 / (probabilities**2).sum()
    assert _frequencies(probabilities, questions, 1.0) == pytest.approx(squared.tolist(), abs=0.035)
    questions = [replace(question, temperature=1.0) for question in questions]
    assert _frequencies(probabilities, questions, 0.6) == pytest.approx([2 / 3, 1 / 3, 0, 0, 0], abs=0.035)


def _frequencies(probabilities: torch.Tensor, questions: list[Question], top_p: float) -> list[float]:
    draw = sampling._Draw(questions, 1, top_p, torch.device("cpu"))
    scores = draw(torch.zeros(len(questions), 1), probabilities.log().expand(len(questions), -1))
    assert (scores == 0).sum(dim=1).eq(1).all()
    chosen = scores.argmax(dim=1).bincount(minlength=len(probabilities))
    assert chosen[probabilities == 0].sum() == 0
    return (chosen / len(questions)).tolist()


def test_repetition_is_found() -> None:
    start = list(range(100, 140))
    assert repeats(torch.tensor([start + [7] * 32])).tolist() == [True]
    assert repeats(torch.tensor([start + list(range(40)) * 3])).tolist() == [True]
    assert repeats(torch.tensor([start + [7] * 31])).tolist() == [False]
    assert repeats(torch.tensor([start + list(range(40)) * 2 + list(range(39))])).tolist() == [False]
    assert repeats(torch.tensor([[1] * 8])).tolist() == [False]


def test_a_row_that_repeats_ends_early(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [replace(question, max_new_tokens=40) for question in QUESTIONS]
    whole = sample(model, questions, NO_END)
    monkeypatch.setattr(sampling, "repeats", lambda ids: torch.arange(len(ids)) == 1)  # the second longest prompt: 7
    answers = sample(model, questions, NO_END)
    assert [(a.tokens, a.end) for a in answers] == [(40, "length")] * 3 + [(8, "repetition")]
    assert answers[3].ids == whole[3].ids[:8]
    assert answers[:3] == whole[:3]


def test_cancelled(model: Any) -> None:
    cancel = threading.Event()
    cancel.set()
    assert [(a.tokens, a.end) for a in sample(model, QUESTIONS[:2], NO_END, cancel=cancel)] == [(1, "cancelled")] * 2


def test_out_of_memory_halves(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = sample(model, QUESTIONS, NO_END)
    sizes: list[int] = []
    generate = sampling.generate_batch

    def small(model: Any, prompts: Any, *more: Any) -> Any:
        sizes.append(len(prompts))
        return None if len(prompts) > 1 else generate(model, prompts, *more)

    monkeypatch.setattr(sampling, "generate_batch", small)
    assert sample(model, QUESTIONS, NO_END) == wanted
    assert sizes == [4, 2, 1, 1, 1, 1]

    def none(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(sampling, "generate_batch", none)
    with pytest.raises(OutOfMemory, match="a row of 22 tokens does not fit"):
        sample(model, QUESTIONS[1:2], NO_END)
