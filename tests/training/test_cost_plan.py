"""The cost of a config on several cards, as `make plan` prints it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.config.load import load
from pipeline.run.errors import UserError
from pipeline.training import cost, cost_plan
from pipeline.training.plan import plan

CONFIGS = Path(__file__).parents[2] / "configs"
COUNTED = {"rows": 52_002, "tokens": 6_598_000, "longest": 512}


def shown(name: str, *words: str, **options: str) -> str:
    config = load(CONFIGS / f"{name}.yaml", words)
    return "\n".join(cost_plan.lines(config, plan(config, COUNTED), options))


def test_lines_hold_the_price() -> None:
    text = shown("alpaca-lora-7b", gpus="8", card="h100", price="2.5")
    config = load(CONFIGS / "alpaca-lora-7b.yaml", [])
    planned = plan(config, COUNTED)
    work = cost_plan.work_of(config, planned, is_sharded=False)
    card = cost.CARDS["h100"]
    hours = cost.predict(work, 8, card, cost.rate_of(card, work)).step * work.steps * 8 / 3600
    assert f"{hours:,.1f} card-hours; {hours * 2.5:,.2f} at PRICE=2.5" in text
    assert "8 x H100 in 1 host:" in text
    assert "exchange of 17 MB" in text  # 4,194,304 numbers of four bytes
    assert "passes as CUDA graphs" in text
    assert "PRICE=2.5 (of one) adds" in shown("alpaca-lora-7b", gpus="8")


def test_nothing_is_said_of_cards_that_nobody_asked_for() -> None:
    assert not shown("alpaca-lora-7b")


def test_one_card_has_no_parts() -> None:
    text = shown("alpaca-lora-7b", gpus="1")
    assert "efficiency 100%" in text
    assert "passes" not in text
    assert "keep" not in text


def test_sharded_weights() -> None:
    """All weights of 7B fit no card of 80 GB: a pass gathers them twice in 16 bits and sums gradients of 32."""
    text = shown("alpaca-7b-full", gpus="8", card="h100")
    assert "this run takes full" in text
    assert "passes kernel by kernel" in text
    assert "exchange of" not in text
    gathered = 6_738_423_808 * (2 + 2 + 4) * 7 / 8 / 360e9
    assert f"at least the gathering, {gathered * 1000:,.1f} ms" in text
    whole = shown("alpaca-7b-full", gpus="8", card="h200")
    assert "this run takes none" in whole
    assert "exchange of 26,954 MB" in whole
    assert "took 1.65 times the prediction" in text
    assert "best case" not in whole + shown("alpaca-lora-7b", "train.shard=full", gpus="8")


def test_more_cards_than_rows() -> None:
    assert "128 rows are fewer than 512 cards: such a run is refused" in shown("alpaca-lora-7b", gpus="512")
    assert "refused" not in shown("alpaca-lora-7b", gpus="64")


def test_wrong_words() -> None:
    for text in ("0", "-1", "x", "nan", "inf"):
        with pytest.raises(UserError, match="is no number above 0"):
            cost_plan.number_of(text, "PRICE")
    with pytest.raises(UserError, match="is no whole number above 0"):
        cost_plan.number_of("1.5", "GPUS", whole=True)
    assert math.isclose(cost_plan.number_of("2.5", "PRICE"), 2.5)
