"""`make plan` of a config that generates its rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.look import show_plan
from pipeline.run.folder import Run
from pipeline.run.width import WIDTH, columns
from pipeline.synthesis.forecast import estimated_tokens, forecast
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.methods import method
from pipeline.synthesis.plan_lines import lines
from pipeline.synthesis.stage import journal_of
from pipeline.synthesis.summary import Spent
from tests.helpers.fake_teacher import FakeTeacher, generate, write_config

Teach = Callable[..., list[FakeTeacher]]
PRICE = "synthesis.teacher.price={input: 1, output: 2}"


def plan_of(folder: Path, run: Run, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    show_plan(write_config(folder, *overrides), run, {})
    printed = capsys.readouterr().out
    assert max(columns(line) for line in printed.splitlines() if not line.startswith("  make")) <= WIDTH
    return " ".join(printed.split())


def test_before_the_first_reply_requests_and_tokens_are_estimated(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    text = plan_of(tmp_path, run, capsys)
    assert "journal empty: nothing was asked yet" in text
    assert "rows 20 wanted, 20 to make, if every draft is kept" in text
    assert "requests about 4" in text  # of five rows each
    assert "cost not known: synthesis.teacher.price is not set" in text
    assert "budget none" in text
    assert "training not known before the rows are there" in text
    assert not run.root.exists()  # a plan writes nothing


def test_with_prices_the_cost_is_told(tmp_path: Path, run: Run) -> None:
    config = write_config(tmp_path, PRICE)
    journal = Journal(journal_of(run))
    planned = forecast(config.synthesis, method(config.synthesis, journal), journal)
    assert planned.completion is not None
    assert planned.cost == pytest.approx((planned.prompt + 2 * planned.completion) / 1e6)
    assert planned.most_cost == pytest.approx((planned.prompt + 2 * 4 * 2048) / 1e6)
    assert planned.seconds is None


def test_after_replies_the_journal_tells(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    teach()
    generate(write_config(tmp_path, PRICE), run)
    capsys.readouterr()
    done = len(Journal(journal_of(run)))
    text = plan_of(tmp_path, run, capsys, PRICE, "synthesis.rows=120", "synthesis.budget=0.05 USD")
    assert f"journal {done} replies" in text
    missing = 120 - 5 * done
    assert f"rows 120 wanted, {missing} to make, at the yield so far" in text
    assert f"requests about {missing // 5}" in text
    assert "(2,000 a request, as measured)" in text
    cost = missing // 5 * 0.004
    assert f"cost about {cost:.2g} USD" in text or f"cost about {cost:.2f} USD" in text
    assert "it ends generation at about" in text
    assert f"about {missing // 5 * 2 // 2} s with 2 requests at once (as measured)" in text


def test_a_plan_of_what_is_there_asks_for_nothing(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    teach()
    generate(write_config(tmp_path), run)
    capsys.readouterr()
    text = plan_of(tmp_path, run, capsys)
    assert "rows 20 wanted, 0 to make" in text
    assert "requests none" in text
    assert "training not planned: model.base is not set" in text


def test_tokens_are_estimated_by_characters() -> None:
    assert estimated_tokens("abcd" * 10) == 10
    assert estimated_tokens("한국어" * 10) == 30


def test_a_method_with_few_items_says_how_many_rows_there_will_be(tmp_path: Path, run: Run) -> None:
    config = write_config(tmp_path, "synthesis.rows=100")
    maker = method(config.synthesis, Journal(journal_of(run)))
    maker.items = 3
    planned = forecast(config.synthesis, maker, Journal(journal_of(run)))
    assert (planned.items, planned.possible) == (3, 15)
    text = " ".join(lines("made", config.synthesis, planned, Spent.of(Journal(journal_of(run)))))
    assert "100 wanted; there is enough for about 15, if every draft is kept" in text
