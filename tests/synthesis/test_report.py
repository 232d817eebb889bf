"""report.json, progress and summary of `make generate`, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.run.folder import Run
from pipeline.run.progress import bar
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.generation import Result
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.lengths import lengths
from pipeline.synthesis.progress import Progress, thousands
from pipeline.synthesis.receipts import Receipt, Total, by_purpose
from pipeline.synthesis.request import Draft
from pipeline.synthesis.similarity import Pair, most_similar, nearest
from pipeline.synthesis.spend import Budget
from pipeline.synthesis.stage import journal_of
from pipeline.synthesis_report.charts import late_share
from pipeline.synthesis_report.verdict import verdict
from tests.helpers.fake_teacher import FakeTeacher, generate, reply_of, tasks, write_config

Teach = Callable[..., list[FakeTeacher]]


def test_the_nearest_earlier_row_or_seed_is_found() -> None:
    rows = ["paint the red barn", "count all the sheep", "paint the green barn"]
    pairs = nearest(rows, ["count all the cows"], "en")
    assert [(pair.row, pair.other) for pair in pairs] == [(0, -1), (1, -1), (2, 0)]
    assert pairs[1].f == pytest.approx(0.75)
    assert pairs[2].f == pytest.approx(0.75)
    assert most_similar([Pair(0.2, 0, -1), Pair(0.9, 1, 0)], 1) == [Pair(0.9, 1, 0)]
    assert nearest(["a"], [], "en") == []


def test_korean_is_compared_by_syllables() -> None:
    (pair,) = nearest(["날씨를 알려 줘", "날씨가 어때"], [], "ko")
    assert 0 < pair.f < 1


def test_sums_keep_apart_what_has_a_price() -> None:
    receipts = {
        "a": Receipt("tasks", prompt=10, completion=5, cost=0.5), "b": Receipt("tasks", prompt=1, completion=1),
        "c": Receipt("repair", prompt=2, completion=2, cost=0.25),
    }  # fmt: skip
    totals = by_purpose(receipts)
    assert list(totals) == ["tasks", "repair"]
    assert totals["tasks"] == Total(2, 11, 6, 0.5, 1)
    assert Total.of([Receipt()]).as_dict()["cost"] is None
    assert Total.of(receipts.values()).as_dict()["cost"] == 0.75


def test_lengths_are_quantiles_of_texts_that_are_there() -> None:
    rows = [Draft("x" * n, "", "y") for n in range(1, 102)]
    measured = lengths(rows)
    assert measured["instruction"] == {"rows": 101, "p5": 6, "p25": 26, "p50": 51, "p75": 76, "p95": 96, "longest": 101}
    assert "input" not in measured


def test_progress_says_spending_yield_and_rate(tmp_path: Path, run: Run) -> None:
    settings = write_config(tmp_path).synthesis
    journal = Journal(journal_of(run))
    asker = Asker(journal, Budget(settings, journal), {})
    drawn = bar(total=20, what="generate", disable=True)
    show = Progress(drawn, asker, settings)
    show(Result(rows=[Draft()] * 5, drafts=6))
    assert (drawn.n, drawn.initial) == (5, 5)  # of the journal: they say nothing about the time that is left
    asker.asked = 1
    drawn.started -= 60
    show(Result(rows=[Draft()] * 15, drafts=20))
    assert (drawn.n, drawn.initial) == (15, 5)
    assert drawn.note == "0 tokens, 75 % kept, 10/min"
    assert thousands(41_234) == "41k tokens"
    assert thousands(1_240_000) == "1.2M tokens"


def test_the_report_tells_yield_novelty_and_provenance(tmp_path: Path, run: Run, teach: Teach) -> None:
    def says(number: int) -> str:
        twice = [tasks(0)[0], *tasks(number)[1:]]
        return json.dumps({"tasks": twice}) if number else reply_of(0)

    teach(says)
    generate(write_config(tmp_path), run)
    report = json.loads((run.folder("generated") / "report.json").read_text())
    assert report["rows"] == 20
    assert report["ended"] == "rows"
    assert sum(report["rejected"].values()) == report["drafts"] - 20 >= 3
    assert report["novelty"]["kept_after"][-1][1] == 20
    assert len(report["novelty"]["similarity"]) == 20
    assert report["novelty"]["pairs"][0]["f"] >= report["novelty"]["pairs"][-1]["f"]
    (model,) = report["provenance"]["models"]
    assert model["terms"] == "Ours; anything goes."
    assert (model["asked_for"], model["model"]) == ("asked-model", "served-model")
    assert len(report["provenance"]["files"]) == 1
    assert str(tmp_path) not in json.dumps(report["provenance"])


def test_the_page_is_of_the_files_alone_and_escapes_texts(tmp_path: Path, run: Run, teach: Teach) -> None:
    def says(number: int) -> str:
        made = tasks(number)
        made[0]["output"] = "<script>alert(1)</script> is what an attacker writes into a field."
        return json.dumps({"tasks": made})

    teach(says)
    generate(write_config(tmp_path), run)
    html = (run.folder("generated") / "report.html").read_text()
    assert "<script>alert(1)" not in html
    assert "20 rows, as many as were wanted" in html
    assert "원한 만큼 20행을" in html
    assert "Ours; anything goes." in html
    assert str(tmp_path) not in html


def test_the_verdict_says_why_there_are_no_more_rows() -> None:
    report = {"rows": 5, "wanted": 10, "drafts": 8, "yield": 0.62, "ended": "budget", "rejected": {"not-novel": 3}}
    assert verdict(report) == ("unknown", "5 of 10 rows: the budget was used up before. 62% of the drafts were kept.")
    state, text = verdict({**report, "yield": 0.1, "ended": "items"})
    assert state == "bad"
    assert "most were rejected by not-novel" in text
    assert verdict({**report, "rows": 0, "yield": 0.0})[0] == "bad"
    assert verdict({**report, "rows": 10})[0] == "good"


def test_late_work_is_compared_with_early_work() -> None:
    assert late_share([(float(n), float(n)) for n in range(1, 21)]) == pytest.approx(1.0)
    flat = [(float(n), float(min(n, 10))) for n in range(1, 21)]
    assert late_share(flat) == 0.0
    assert late_share([(1.0, 1.0)]) == 1.0
