"""Sampling against transformers' processors, and one request alone against the same in a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pipeline.serving.engine import sampler
from pipeline.serving.engine.request import GenerationRequest, Sampling
from pipeline.serving.engine.sampler import RowSampling, choose, draw

WORDS = 700
CPU = torch.device("cpu")


def request(ids: Sequence[int] = (1, 2, 3), top_logprobs: int | None = None, **sampling: Any) -> GenerationRequest:
    return GenerationRequest("m", tuple(ids), 10, frozenset({0}), Sampling(**sampling), top_logprobs)


def row(**values: Any) -> RowSampling:
    return RowSampling.of(request(**values), WORDS, CPU)


def logits(rows: int = 1, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, WORDS, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 40, "top_p": 0.5}, {"top_p": 0.999}, {"top_k": 600, "top_p": 0.9999}],
)
def test_distribution_is_that_of_transformers(settings: dict[str, Any], seed: int) -> None:
    """The share of uniform numbers that pick an id is its probability after transformers' warpers."""
    scores = logits(seed=seed)
    expected = TemperatureLogitsWarper(0.7)(None, scores.clone())
    if "top_k" in settings:
        expected = TopKLogitsWarper(settings["top_k"])(None, expected)
    if "top_p" in settings:
        expected = TopPLogitsWarper(settings["top_p"])(None, expected)
    expected = expected.softmax(dim=-1)[0]
    count = 20_000
    uniform = [(i + 0.5) / count for i in range(count)]
    asked = request(temperature=0.7, **settings)
    ids = torch.cat(
        [draw(scores.expand(2_000, -1), [asked] * 2_000, uniform[i : i + 2_000]) for i in range(0, count, 2_000)]
    )
    share = torch.bincount(ids, minlength=WORDS) / count
    assert (share - expected).abs().max() < 2 / count
    assert not share[expected == 0].any()


def test_repetition_penalty_is_that_of_transformers() -> None:
    scores, penalized = logits(), row(ids=(4, 9, 4, 7), repetition_penalty=1.3)
    for id in (11, 9, 11):
        penalized.add(id)
    ours = scores[0].clone()
    penalized.penalize(ours)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[4, 9, 4, 7, 11, 9, 11]]), scores.clone())[0]
    assert torch.allclose(ours, theirs)
    assert (ours != scores[0]).sum() == 4


def test_frequency_and_presence_penalties() -> None:
    """OpenAI's: mu[j] - c[j] * frequency - (c[j] > 0) * presence, c counted in the answer alone."""
    scores, penalized = logits(), row(ids=(4, 9), frequency_penalty=0.5, presence_penalty=0.25)
    for id in (11, 9, 11):
        penalized.add(id)
    ours = scores[0].clone()
    penalized.penalize(ours)
    expected = scores[0].clone()
    expected[11] -= 2 * 0.5 + 0.25
    expected[9] -= 0.5 + 0.25
    assert torch.allclose(ours, expected)


def test_penalties_change_the_choice_and_not_the_logprobs() -> None:
    scores = logits()
    best, second = scores[0].topk(2).indices.tolist()
    token = choose(scores, [row(ids=(best,), repetition_penalty=100.0, top_logprobs=2)])[0]
    assert token
    assert token.id == second
    assert [id for id, _ in token.top] == [best, second]
    assert math.isclose(token.logprob or 0, float(scores[0].log_softmax(-1)[second]), rel_tol=1e-6)


def test_logprobs_only_where_asked_for() -> None:
    scores = logits(3)
    plain, none, three = choose(scores, [row(), row(top_logprobs=0), row(top_logprobs=3)])
    assert plain
    assert none
    assert three
    assert (plain.logprob, plain.top) == (None, ())
    assert none.logprob == float(scores[1].log_softmax(-1).max())
    assert none.top == ()
    assert [value for _, value in three.top] == sorted((value for _, value in three.top), reverse=True)


def test_alone_and_in_a_batch() -> None:
    """Ten steps of five requests with other settings: the same ids as each alone."""
    settings: list[dict[str, Any]] = [
        {}, {"temperature": 1.0, "seed": 1}, {"temperature": 0.7, "top_p": 0.9, "seed": 2},
        {"temperature": 1.5, "top_k": 20, "seed": 3, "frequency_penalty": 0.3},
        {"temperature": 0.9, "top_p": 0.9999, "seed": 4, "repetition_penalty": 1.1},
    ]  # fmt: skip
    together, alone = [row(**s) for s in settings], [row(**s) for s in settings]
    for step in range(10):
        scores = logits(len(settings), step, 1.0)
        ids = [token and token.id for token in choose(scores, together)]
        assert ids == [choose(scores[i : i + 1], [one])[0].id for i, one in enumerate(alone)]  # type: ignore[union-attr]


def test_seeds_differ_and_repeat() -> None:
    scores = [logits(1, step, 0.5) for step in range(20)]

    def answer(seed: int | None) -> list[int]:
        one = row(temperature=1.0, seed=seed)
        return [choose(s, [one])[0].id for s in scores]  # type: ignore[union-attr]

    assert answer(7) == answer(7)
    assert answer(7) != answer(8)
    assert answer(None) != answer(None)


def test_a_row_that_is_not_finite_is_none() -> None:
    scores = logits(3)
    scores[1, 5] = math.nan
    first, bad, last = choose(scores, [row(temperature=1.0), row(temperature=1.0), row()])
    assert first
    assert last
    assert bad is None


def test_few_candidates_are_enough_or_all_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short cut changes no choice."""
    scores, uniform = logits(50, 3, 0.3), [i / 50 for i in range(50)]
    asked = [request(temperature=1.0, top_p=0.3 + 0.0139 * i) for i in range(50)]
    whole = draw(scores, asked, uniform)
    monkeypatch.setattr(sampler, "CANDIDATES", 8)
    assert torch.equal(draw(scores, asked, uniform), whole)
