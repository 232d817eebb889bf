"""What `make generate` writes and says, with a teacher that needs no server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import stages
from pipeline.config.synthesis import Synthesis
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.next_command import started
from pipeline.synthesis import methods, stage
from pipeline.synthesis.generation import Method
from pipeline.synthesis.journal import Journal
from tests.helpers.fake_teacher import FakeTeacher, generate, lost, reply_of, write_config

Teach = Callable[..., list[FakeTeacher]]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_row_says_where_it_comes_from(tmp_path: Path, run: Run, teach: Teach) -> None:
    teach()
    generate(write_config(tmp_path), run)
    rows = lines_of(run.folder("generated") / "rows.jsonl")
    assert len(rows) == 20
    made = rows[0]["generated"]
    assert made["method"] == "self-instruct"
    assert made["teacher"] == {"kind": "api", "place": "localhost:1", "model": "served-model"}
    assert len(made["seeds"]) == 2
    assert len(made["requests"]) == 1
    assert made["time"] == "2026-12-01T00:00:00+00:00"
    assert made["tokens"] == {"prompt": 400.0, "completion": 200.0}  # of 2000 and 1000, over five rows
    assert made["cost"] is None


def test_the_cost_of_a_reply_is_divided_over_its_kept_rows(tmp_path: Path, run: Run, teach: Teach) -> None:
    teach()
    generate(write_config(tmp_path, "synthesis.teacher.price={input: 1, output: 2, currency: KRW}"), run)
    rows = lines_of(run.folder("generated") / "rows.jsonl")
    assert {row["generated"]["currency"] for row in rows} == {"KRW"}
    report = json.loads((run.folder("generated") / "report.json").read_text())
    assert sum(row["generated"]["cost"] for row in rows) == pytest.approx(4 * 4000 / 1e6)
    assert report["spend"]["cost"] == pytest.approx(4 * 4000 / 1e6)
    assert report["spend"]["currency"] == "KRW"


def test_a_rejected_draft_has_rule_reason_and_raw_text(tmp_path: Path, run: Run, teach: Teach) -> None:
    def says(number: int) -> str:
        return reply_of(number) if number else "no JSON"

    teach(says)
    generate(write_config(tmp_path, "synthesis.rows=3"), run)
    (rejected,) = lines_of(run.folder("generated") / "rejected.jsonl")
    assert rejected["rule"]
    assert rejected["reason"]
    assert rejected["raw"] == "no JSON"
    assert "tokens" not in rejected["generated"]


def test_again_is_up_to_date_and_a_budget_that_is_raised_goes_on(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    used = teach()
    small = ("synthesis.budget=7000 tokens", "synthesis.teacher.parallel=1")
    generate(write_config(tmp_path, *small), run)
    said = " ".join(capsys.readouterr().out.split())
    assert "the budget of 7000 tokens ended it before 20 rows" in said
    count = len(used[0].asked)
    assert 0 < count < 4
    assert len(lines_of(run.folder("generated") / "rows.jsonl")) == 5 * count
    generate(write_config(tmp_path, *small), run)
    assert "up to date" in capsys.readouterr().out
    assert len(used) == 1
    generate(write_config(tmp_path, "synthesis.budget=900000 tokens"), run)
    assert len(lines_of(run.folder("generated") / "rows.jsonl")) == 20
    assert len(used[1].asked) == 4 - count


def test_lost_requests_are_tried_again_by_generate_alone(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def three(settings: Synthesis, journal: Journal) -> Method:
        """A method that ends after three items, so that the loss is not made up by a further one."""
        maker = methods.method(settings, journal)
        maker.items = 3
        return maker

    monkeypatch.setattr(stage, "method", three)
    teach(lost)
    generate(write_config(tmp_path), run)
    counts = (run.manifest("generated") or {})["counts"]
    assert counts["lost"] == 1
    assert "1 request failed after all tries" in " ".join(capsys.readouterr().out.split())
    started("data", "configs/made.yaml", ())
    used = teach()
    generate(write_config(tmp_path), run)
    assert used == []
    started("generate", "configs/made.yaml", ())
    generate(write_config(tmp_path), run)
    assert [request.draw for request in used[0].asked] == [1]
    assert len(lines_of(run.folder("generated") / "rows.jsonl")) == 15


def test_a_replay_asks_nothing_and_gives_the_same_bytes(tmp_path: Path, run: Run, teach: Teach) -> None:
    used = teach()
    generate(write_config(tmp_path), run)
    before = {path.name: path.read_bytes() for path in run.folder("generated").iterdir() if path.suffix != ".html"}
    generate(write_config(tmp_path, "synthesis.replay=true"), run)
    after = {path.name: path.read_bytes() for path in run.folder("generated").iterdir() if path.suffix != ".html"}
    assert len(used) == 1
    del before["manifest.json"], after["manifest.json"]
    assert before == after


def test_a_journal_of_another_config_is_told_before_it_is_paid_anew(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    teach()
    generate(write_config(tmp_path), run)
    capsys.readouterr()
    generate(write_config(tmp_path, "synthesis.rows=25"), run)
    assert "other requests" not in capsys.readouterr().out
    generate(write_config(tmp_path, "synthesis.teacher.model=other"), run)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"the journal's \d+ replies are to other requests", said)
    assert "changed since: synthesis.teacher.model" in said


def test_the_data_stage_reads_the_rows_and_names_the_teacher(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    teach()
    config = write_config(tmp_path)
    started("data", "configs/made.yaml", ())
    stages.bring_up_to_date(config, run, "data")
    report = json.loads((run.folder("dataset") / "report.json").read_text())
    assert report["read"] == 20
    assert "field-not-used" not in {rule["rule"] for rule in report["rules"]}
    assert report["sources"][0]["path"] == "runs/made/generated"
    assert not report["sources"][0].get("notes")
    sheet = (run.folder("dataset") / "README.md").read_text()
    for fact in ("served-model", "Ours; anything goes.", "self-instruct", "2026-12-01", "no price was set"):
        assert fact in sheet
    own = (run.folder("generated") / "README.md").read_text()
    assert "Ours; anything goes." in own
    assert "served-model" in own


def test_a_replay_writes_the_rows_of_a_teacher_that_only_repeats_itself(
    tmp_path: Path, run: Run, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(lambda number: reply_of(min(number, 1)))
    with pytest.raises(UserError, match="gave no row") as caught:
        generate(write_config(tmp_path), run)
    assert "synthesis.replay=true" in caught.value.fix
    assert not run.folder("generated").exists()
    generate(write_config(tmp_path, "synthesis.replay=true"), run)
    assert len(lines_of(run.folder("generated") / "rows.jsonl")) == 10
    assert (run.manifest("generated") or {})["counts"]["ended"] == "yield"
    assert "gave no row any more" in " ".join(capsys.readouterr().out.split())


def test_a_row_names_the_address_that_was_asked_then(tmp_path: Path, run: Run, teach: Teach) -> None:
    teach()
    generate(write_config(tmp_path), run)
    teach()
    generate(write_config(tmp_path, "synthesis.rows=60", "synthesis.teacher.base_url=http://other:2/v1"), run)
    places = [row["generated"]["teacher"]["place"] for row in lines_of(run.folder("generated") / "rows.jsonl")]
    assert places[:20] == ["localhost:1"] * 20
    assert places[-20:] == ["other:2"] * 20


@pytest.mark.parametrize(
    ("override", "where"),
    [("synthesis.budget=10 tokens", "synthesis.budget"), ("synthesis.replay=true", "synthesis.replay")],
)
def test_without_any_reply_nothing_is_written(
    tmp_path: Path, run: Run, teach: Teach, override: str, where: str
) -> None:
    teach()
    with pytest.raises(UserError) as error:
        generate(write_config(tmp_path, override), run)
    assert error.value.where == where
    assert not run.folder("generated").exists()


def test_a_budget_is_no_number_alone(tmp_path: Path) -> None:
    for budget in ("0", "500", "0 tokens", "5 dollars", "1.5 tokens"):
        with pytest.raises(UserError, match=r"synthesis\.budget"):
            write_config(tmp_path, f"synthesis.budget={budget}")
