"""What a step costs on many cards."""

from __future__ import annotations

import dataclasses
import math

import pytest

from pipeline.run.errors import UserError
from pipeline.training import cost
from pipeline.training.cost import CARDS, MEASURED, Work, predict

H200 = CARDS["h200"]
ALPACA = Work(128, 126.9, 1218, cost.MEASURED_OPERATIONS, 4_194_304, 32, "bf16")


def test_one_card_is_work_over_speed() -> None:
    now = predict(ALPACA, 1, H200, 10_000)
    assert now.step == now.one == 128 * 126.9 / 10_000
    assert now.efficiency == 1
    assert now.exchange == 0


def test_a_ring_sends_each_byte_twice_but_for_its_own_share() -> None:
    """4 ranks, 1 GB, 100 GB/s measured: 2 * 3/4 * 1 / 100 s, and three messages' latency (gradients, signal, loss)."""
    size = 4 * (1 << 24)
    seconds = cost.exchange_seconds(size, 4, H200, link=100)
    assert seconds == pytest.approx(1.5 * size / 100e9 + 3 * cost.LATENCY_MS / 1000)


def test_hosts_send_over_their_network() -> None:
    size = 4e9
    assert cost.exchange_seconds(size, 16, CARDS["l40s"]) > 2 * cost.exchange_seconds(size, 8, CARDS["l40s"])


@pytest.mark.parametrize(("dtype", "measured"), [("bf16", 56_278), ("fp8", 81_629)])
def test_two_cards_as_measured(dtype: str, measured: float) -> None:
    """Within 3 % of what two H200s did on 2026-11-29."""
    work = dataclasses.replace(ALPACA, dtype=dtype)
    rate = work.rows * work.tokens / predict(work, 2, H200, MEASURED[dtype]).step
    assert rate == pytest.approx(measured, rel=0.03)


def test_more_cards_are_never_slower_and_less_efficient() -> None:
    work = dataclasses.replace(ALPACA, rows=4096)
    costs = [predict(work, count, H200, 28_151) for count in (1, 2, 4, 8)]
    assert [c.step for c in costs] == sorted((c.step for c in costs), reverse=True)
    assert [c.efficiency for c in costs] == sorted((c.efficiency for c in costs), reverse=True)


def test_launches_bound_small_shares() -> None:
    few = predict(ALPACA, 64, H200, 28_151)
    assert few.compute == pytest.approx(32 * cost.LAUNCH_MS["bf16"] / 1000)
    assert few.efficiency < 0.2


@pytest.mark.parametrize("count", [2, 8, 64])
def test_the_step_from_which_cards_pay(count: int) -> None:
    rows = cost.rows_worth(ALPACA, count, H200, 28_151)
    assert rows is not None
    assert predict(dataclasses.replace(ALPACA, rows=rows), count, H200, 28_151).efficiency >= cost.WORTH
    if rows > count:
        half = dataclasses.replace(ALPACA, rows=rows // 2)
        assert predict(half, count, H200, 28_151).efficiency < cost.WORTH


def test_speed_of_another_card_and_base() -> None:
    assert cost.rate_of(H200, ALPACA) == pytest.approx(28_151)
    half = dataclasses.replace(ALPACA, operations=ALPACA.operations / 2)
    assert cost.rate_of(CARDS["a100"], half) == pytest.approx(28_151 * 2 * 312 / 989)
    with pytest.raises(UserError, match="the A100 has no fp8"):
        cost.rate_of(CARDS["a100"], dataclasses.replace(ALPACA, dtype="fp8"))


def test_lines_hold_the_price() -> None:
    text = "\n".join(cost.lines(ALPACA, 8, H200, 28_151, "source", 2.5))
    hours = predict(ALPACA, 8, H200, 28_151).step * 1218 * 8 / 3600
    assert f"{hours:,.1f} card-hours; {hours * 2.5:,.2f} at PRICE=2.5" in text
    assert "8 x H200 in 1 host:" in text
    assert "PRICE=2.5 (of one) adds" in "\n".join(cost.lines(ALPACA, 8, H200, 28_151, "source", 0))


def test_wrong_words() -> None:
    with pytest.raises(UserError, match="no such card: 'h10'"):
        cost.card_of("h10")
    for text in ("0", "-1", "x", "nan", "inf"):
        with pytest.raises(UserError, match="is no number above 0"):
            cost.number_of(text, "PRICE")
    with pytest.raises(UserError, match="is no whole number above 0"):
        cost.number_of("1.5", "GPUS", whole=True)
    assert math.isclose(cost.number_of("2.5", "PRICE"), 2.5)
