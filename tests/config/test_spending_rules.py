"""A budget in money needs prices; an unknown price is never taken for nothing."""

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
        ("5 USD", {"price": PRICE}, []),
        ("5 USD", {"price": {"input": 0, "output": 0}}, []),
        ("5 USD", {"kind": "local"}, []),
        ("5 USD", {}, ["synthesis.teacher.price"]),
        ("5 KRW", {"price": PRICE}, ["synthesis.teacher.price.currency"]),
        ("", {"price": {"input": 1}}, ["synthesis.teacher.price.output"]),
        ("5 USD", {"price": {"output": 1}}, ["synthesis.teacher.price.input"]),
        ("", {"extra": {"n": 4, "top_p": 1}}, ["synthesis.teacher.extra"]),
    ],
)
def test_prices_and_budgets(budget: str, teacher: Any, keys: list[str]) -> None:
    assert problems(budget, teacher) == keys


def test_a_judge_with_a_model_needs_a_price_too() -> None:
    assert problems("5 USD", {"price": PRICE}, judge={"model": "j"}) == ["synthesis.judge.price"]
    assert problems("5 USD", {"price": PRICE}, judge={"bar": 4}) == []


def test_nothing_is_said_where_nothing_is_generated() -> None:
    assert problems("5 USD", {}, method="none") == []
