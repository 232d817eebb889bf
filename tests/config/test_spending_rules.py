"""Half a price is refused, and so are fields that other keys set."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.spending_rules import spending_problems
from pipeline.config.synthesis import Synthesis

PRICE = {"input": 1, "output": 2}


def problems(budget: str, teacher: Any, **more: Any) -> list[str]:
    settings = {"method": "self-instruct", "budget": budget, "teacher": {"model": "m", **teacher}, **more}
    return [".".join(map(str, key)) for key, _ in spending_problems(Synthesis.model_validate(settings))]


@pytest.mark.parametrize(
    ("budget", "teacher", "keys"),
    [
        ("", {}, []),
        ("1000 tokens", {}, []),
        ("", {"price": PRICE}, []),
        ("", {"price": {"input": 0, "output": 0}}, []),
        ("", {"price": {"input": 1}}, ["synthesis.teacher.price.output"]),
        ("1000 tokens", {"price": {"output": 1}}, ["synthesis.teacher.price.input"]),
        ("", {"extra": {"n": 4, "top_p": 1}}, ["synthesis.teacher.extra"]),
    ],
)
def test_prices_and_budgets(budget: str, teacher: Any, keys: list[str]) -> None:
    assert problems(budget, teacher) == keys


def test_a_judge_with_a_model_is_checked_too() -> None:
    judge = {"extra": {"stream": True}}
    assert problems("", {}, judge={"model": "j", **judge}) == ["synthesis.judge.extra"]
    assert problems("", {}, judge=judge) == []


def test_nothing_is_said_where_nothing_is_generated() -> None:
    assert problems("", {"price": {"input": 1}}, method="none") == []
