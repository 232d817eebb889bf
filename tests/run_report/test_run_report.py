"""The run's page: right at every stage of a run, tells what is stale or missing, shows any text and runs none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.cli.look import make_report
from pipeline.config.schema import Config
from pipeline.data_report import stage as data_report
from pipeline.pages import charts
from pipeline.pages.dots import DotRow
from pipeline.pages.drawing import Curve, Dot, Drawing, svg
from pipeline.run.errors import UserError
from pipeline.run.files import write_text
from pipeline.run.folder import Run
from pipeline.run_report import curves
from pipeline.run_report.contents import read
from pipeline.run_report.results import benchmarks, reading, side_by_side
from pipeline.run_report.sections import duration
from pipeline.run_report.stage import build
from pipeline.training.metrics import loss_chart, points, running_mean
from tests.helpers.overview_run import RUN, finish, metrics_lines, whole
from tests.helpers.pages import parsed_page
from tests.helpers.report_run import CONFIG, make_run
from tests.helpers.tiny import make_config, run_to

__all__ = ["whole"]  # a fixture: used by name


def test_it_shows_hostile_text_and_runs_none_of_it(whole: Path) -> None:
    page = parsed_page(whole)
    assert (page.tags["script"], page.tags.get("img", 0), page.handlers) == (1, 0, [])
    assert page.text.count("<script>alert(1)</script>") > 12
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside == ["data:,", "compare/compare%20page.html"]
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not re.search("[\x00-\x08\u202a-\u202e\ufeff\ud800-\udfff]", whole.read_text())


def test_all_of_it_is_there(whole: Path) -> None:
    text = " ".join(parsed_page(whole).text.split())
    for wanted in (
        "1,000parameters trained, 20.00%", "1 min 16 sof training on cpu", "2.00 → 0.50held-out loss",
        "+0.100 ± 0.100forgetting", "62%win rate before a judge", "40 steps of 8 rows", "step 7", "3 of 4 answers",
        "held-out rows: loss (4 rows)",
        "few <steps>", "more & more", "1 of 4", "0.6 ± 0.02", "better", "ab12", "cd34", "one seed",
        "all842262.5%30.6% to 86.3%", "agreed with itself on 75.0% of the pairs", "step 40 <script>",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "not made" not in text
    assert "somebody" not in whole.read_text(), "a folder of this machine"


@pytest.mark.parametrize("stage", ["data", "tokens", "training", "trained"])
def test_it_works_at_every_stage_and_names_the_command_for_the_rest(tmp_path: Path, stage: str) -> None:
    run = make_run(tmp_path / "test", tokens=stage != "data")
    if stage == "training":
        write_text(run.root / "metrics.jsonl", "".join(f"{line}\n" for line in map(json.dumps, metrics_lines(20))))
    if stage == "trained":
        finish(run)
        for folder in ("export", "eval", "judge", "compare"):
            run.folder(folder).rename(tmp_path / folder)
    page = parsed_page(build(CONFIG, run))
    wanted = {"make export", "make eval", "make judge", "make compare"} | (
        {"make train"} if stage != "trained" else set()
    )
    assert {f"{command} CONFIG=..." in page.text for command in wanted} == {True}
    assert ("make data CONFIG=..." in page.text) == (stage == "data")
    assert ("Not finished: step 20 is the last one" in page.text) == (stage == "training")
    assert ("held-out loss while training" in page.text) == (stage in ("training", "trained"))


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing"):
        make_report(CONFIG, Run(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_what_is_stale_or_differs_is_said(tmp_path: Path) -> None:
    run = finish(make_run(tmp_path / "test"))
    assert read(RUN, run).old == {}
    with run.writing("tokens", {"dataset": "another"}) as out:
        out.counts["train"] = {}
    other = RUN.model_copy(update={"train": RUN.train.model_copy(update={"lr": 0.5})})
    contents = read(other, run)
    assert contents.old.keys() == {"tokens", "adapter"}
    assert contents.differs == {"train.lr": (0.0002, 0.5)}
    assert contents.config.train.lr == 0.0002, "the folder's own config counts"
    text = parsed_page(build(other, run)).text
    assert "training: made from an earlier result of tokens; others are there now." in text
    assert "train.lr (0.0002, now 0.5)" in text
    write_text(run.root / "config.yaml", "name: test\nold_key: 1\n")
    assert "cannot be read by this version" in parsed_page(build(other, run)).text


def test_a_real_run_is_read_and_not_touched(base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base, "train.max_steps=2", "eval.max_new_tokens=24")
    run = run_to(config, "train", tmp_path)
    before = {p: p.stat().st_mtime_ns for p in run.root.rglob("*") if p.is_file()}
    text = parsed_page(build(config, run)).text
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "do not end by themselves" in text
    assert "train.lr=0.01" in text
    assert "parameters 41,120, trained 896" in " ".join(text.split()), "the plan"
    assert str(tmp_path) not in (run.root / "run_report.html").read_text()


def test_nothing_trained_is_no_gap(base: Path, tmp_path: Path) -> None:
    path = make_config(tmp_path, base).model_dump(mode="json")
    path |= {"adapter": {"method": "none"}, "train": {"tracker": "none"}}
    config = Config.model_validate(path)
    run = run_to(config, "train", tmp_path)
    text = parsed_page(build(config, run)).text
    assert "Nothing is trained: adapter.method is none." in text
    assert "One run with one seed" not in text


def test_curves_take_any_numbers() -> None:
    lines = [{"step": 1, "loss": 2.0, "lr": 0.0, "tokens": 5, "seconds": 0.0}, {"step": 2, "loss": float("nan")}]
    assert points(lines, "loss") == [(1.0, 2.0)]
    for draw in (loss_chart, curves.learning_rate, curves.speed):
        for found in ([], lines, metrics_lines(3)):
            for width in (340.0, 880.0):
                assert svg(draw(found, width), "wide").startswith("<svg")
    assert running_mean([2.0, 1.0]) == [2.0, pytest.approx(1.9)]
    assert running_mean([]) == []
    many = [(float(n), 1.0) for n in range(10_000)]
    assert len(charts.thinned(many)) <= 300
    assert charts.thinned(many[:10]) == many[:10]
    drawing = loss_chart(metrics_lines(40), 880)
    assert [len(m.points) for m in drawing.marks if isinstance(m, Curve)] == [40, 40, 5, 5]
    markers = [m for m in drawing.marks if isinstance(m, Dot) and m.tip]
    assert [m.shape for m in markers] == ["circle"] * 5 + ["diamond"] * 5, "held-out rows, general text"
    assert any("step 20: training, each step 0.936" in getattr(m, "tip", "") for m in drawing.marks)


def test_ticks_are_round() -> None:
    assert charts.ticks(2.3, 4) == [0, 1, 2]
    assert charts.ticks(0.002, 4) == pytest.approx([0, 0.0005, 0.001, 0.0015, 0.002])
    assert charts.ticks(100, 5) == [0, 20, 40, 60, 80, 100]


def test_dots_stay_on_the_scale() -> None:
    drawing: Drawing = curves.base_and_tuned(
        [DotRow("a", [(0.0, 0.1), (1.0, 0.1)]), DotRow("b" * 90, [(0.5, 0.0), (0.5, 0.0)])], 340, "x", "X"
    )
    dots = [m for m in drawing.marks if isinstance(m, Dot) and m.tip]
    assert len(dots) == 4
    assert min(d.x for d in dots) >= 0
    assert max(d.x for d in dots) <= 340


def test_a_change_is_read_by_its_error() -> None:
    def read_(change: float | None, error: float | None, better: str = "up") -> str:
        return reading({"change": change, "change_error": error, "better": better})

    assert read_(0.05, 0.01) == "better"
    assert read_(0.05, 0.01, "down") == "worse"
    assert read_(0.05, 0.03) == "within two standard errors"
    assert read_(-0.05, None) == "worse, error unknown"
    assert read_(None, None) == read_(0.1, 0.01, "") == ""


def test_odd_results_of_others_do_not_break_the_page(tmp_path: Path) -> None:
    run = finish(make_run(tmp_path / "test"))
    write_text(run.folder("eval") / "eval.json", '{"rows": ["text", {"name": 5}, {"base": "x", "tuned": true}]}')
    write_text(run.folder("judge") / "judge.json", '{"win_rate": 0.5, "by_category": 3}')
    contents = read(RUN, run)
    assert "not measured" in benchmarks(contents)
    assert "No pairs were judged" in side_by_side(contents)
    write_text(run.folder("judge") / "judge.json", "[]")
    assert "No pairs were judged" in side_by_side(read(RUN, run))


def test_durations() -> None:
    assert [duration(s) for s in (45, 145.4, 11_400)] == ["45 s", "2 min 25 s", "3 h 10 min"]


def test_pages_of_earlier_versions_are_replaced_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "test")
    write_text(run.root / "report.html", "<p>an earlier run report")
    assert build(CONFIG, run) == run.root / "run_report.html"
    assert not (run.root / "report.html").exists()
    assert "run_report.html" in " ".join(capsys.readouterr().out.split())
    with run.writing("report", {**data_report.key(CONFIG, run), "version": 1}) as out:
        write_text(out.folder / "report.html", "<p>an earlier data report")
    assert not run.is_current("report", data_report.key(CONFIG, run))
