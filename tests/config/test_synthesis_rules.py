"""Half a price is refused, and so are fields that other keys set."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.synthesis import Synthesis
from pipeline.config.synthesis_rules import synthesis_problems

PRICE = {"input": 1, "output": 2}


def problems(budget: str, teacher: Any, **more: Any) -> list[str]:
    teacher = {"model": "m", "terms": "allowed", **teacher}
    settings = {"method": "self-instruct", "seeds": ["a.jsonl"], "budget": budget, "teacher": teacher, **more}
    return [".".join(map(str, key)) for key, _ in synthesis_problems(Synthesis.model_validate(settings))]


@pytest.mark.parametrize(
    ("budget", "teacher", "keys"),
    [
        ("", {}, []),
        ("1000 tokens", {}, []),
        ("", {"price": PRICE}, []),
        ("", {"price": {"input": 0, "output": 0}}, []),
        ("", {"price": {"input": 1}}, ["synthesis.teacher.price.output"]),
        ("5 USD", {"price": {"input": 1}}, ["synthesis.teacher.price"]),
        ("5 KRW", {"price": PRICE}, ["synthesis.teacher.price.currency"]),
        ("1000 tokens", {"price": {"output": 1}}, ["synthesis.teacher.price.input"]),
        ("", {"extra": {"n": 4, "top_p": 1}}, ["synthesis.teacher.extra"]),
    ],
)
def test_prices_and_budgets(budget: str, teacher: Any, keys: list[str]) -> None:
    assert problems(budget, teacher) == keys


def test_a_judge_with_a_model_is_checked_too() -> None:
    judge = {"bar": 4, "extra": {"stream": True}}
    assert problems("", {}, judge={"model": "j", **judge}) == ["synthesis.judge.extra"]
    assert problems("", {}, judge=judge) == []


def test_nothing_is_said_where_nothing_is_generated() -> None:
    assert problems("", {"price": {"input": 1}}, method="none") == []
