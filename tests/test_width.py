"""Nothing that a command prints is wider than 78 columns, and a log file has no carriage return."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison.judgement import printed as judge_table
from pipeline.comparison.winrate import win_rate
from pipeline.config.load import load
from pipeline.evaluation.probe_causes import advice
from pipeline.evaluation.table import printed as eval_table
from pipeline.evaluation.table import row
from pipeline.release.summary import headline, table
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.integrity import verify
from pipeline.run.progress import say, warn
from pipeline.run.width import WIDTH, aligned, columns
from pipeline.store.folder import Store
from pipeline.store.table import table as store_table
from tests.helpers.messages import GOLDEN
from tests.helpers.tiny import make_config, run_to

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LONG = "held-out rows, group reading-and-writing-of-long-names: exact match (1,024 answers)"


def assert_narrow(text: str) -> None:
    """Paths, of which our own folders are made, may be longer than a line."""
    for line in text.splitlines():
        assert columns(line) <= WIDTH or any(len(word) > 40 and "/" in word for word in line.split()), line


def test_help_of_make() -> None:
    made = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert_narrow(made.stdout)
    assert [line for line in made.stdout.splitlines() if line and " " not in line] == [
        "Start", "Look", "Compare", "Share", "Advanced",
    ]  # fmt: skip


def test_the_results_of_an_export() -> None:
    rows = [
        ("held-out rows: loss (64 rows)", "2.345", "0.321"),
        ("held-out rows: exact match (64 answers)", "12.5% ± 4.1%", "84.4% ± 4.6%"),
        (LONG, "12.5% ± 14.1%", "100.0% ± 10.6%"),
        ("한국어 지시문 그룹의 이름이 아주 길 때: exact match (10 answers)", "0.0%", "1.0%"),
        ("forgetting: change of that loss", "", "+0.123 ± 0.045"),
    ]
    shown = table(rows, ("base", "tuned"))
    assert_narrow(shown)
    assert shown.splitlines()[1] == "held-out rows"
    assert all(value in shown for _, *values in rows for value in values)


def test_the_headline_of_an_export() -> None:
    one = {"val": {"rows": 64, "loss": 2.3456, "exact": 0.03125}}
    two = {"val": {"rows": 64, "loss": 0.321, "exact": 0.84375}}
    shown = headline({"base": one, "tuned": two})
    assert all(number in shown for number in ("3.1%", "84.4%", "2.346", "0.321", "64"))
    assert headline({"base": {}, "tuned": {}}) == ""


def test_the_table_of_an_evaluation() -> None:
    estimates = {"base": (0.5, 0.04), "shots": (0.625, 0.041), "tuned": (0.84375, 0.046)}
    changes = {"base": (0.34375, 0.05), "shots": (0.2, 0.06)}
    rows = [
        row(name, metric, estimates, changes, "up", 14042, note)
        for name in (
            "held-out rows",
            "a_benchmark_with_a_name_that_is_rather_long_for_a_terminal",
        )
        for metric, note in (("exact match", ""), ("loss", "12 passes lost their beginning, being longer than it"))
    ]
    shown = eval_table(4, rows)
    assert_narrow(shown)
    assert all(text in shown for text in ("50.0 ± 4.0 %", "84.4 ± 4.6 %", "+34.4 ± 5.0 points", "14,042"))
    alone = eval_table(4, [row("x", "acc", {"base": (0.5, math.nan)}, {}, "up", 3)])
    assert "50.0 %" in alone


def test_the_totals_of_a_judge() -> None:
    rate = win_rate(["tuned"] * 7 + ["tie"] * 2 + ["base"])
    totals: dict[str, Any] = {
        "judge": {"model": "a-model-of-a-long-name/" * 3}, "asked": 10, "win_rate": rate, "by_set": {},
        "by_category": {"reasoning about everyday situations": rate, "한국어로 쓰는 짧은 편지와 안내문": rate},
        "consistency": 0.9, "first": 0.5, "identical": 2, "unparsable": {"replies": 1, "questions": 1},
    }  # fmt: skip
    assert_narrow(judge_table(totals))
    assert judge_table(totals).count("  80.0%") == 3


def test_the_adapter_store(lora_store: Store) -> None:
    assert_narrow(store_table(lora_store))


def test_columns_are_aligned() -> None:
    assert aligned([("a", "10"), ("한국", "9")]) == "a     10\n한국   9"
    assert aligned([("", "n"), ("x" * 77, "5")]).splitlines() == ["  n", "x" * 77, "  5"]


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_the_plan_of_every_config(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.training.plan import plan
    from pipeline.training.plan_lines import lines

    config = load(path)
    if config.model.geometry is None:
        pytest.skip("its base is not here")
    for line in lines(config, plan(config, {"rows": 52_002, "tokens": 12_345_678})):
        say(line)
    assert_narrow(capsys.readouterr().out)


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """Every message of the sources, with a word in each of its gaps."""
    for block in GOLDEN.read_text().replace("{}", "something").split("what:  ")[1:]:
        what, _, rest = block.partition("\n")
        warn(f"suri: {UserError(what, rest[:200].partition(chr(10))[0], rest)}")
    assert_narrow(capsys.readouterr().err)


def test_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    say(advice({"said": "12 of 16 answers " * 6, "cause": "too little was learnt " * 6, "fix": "train longer " * 9}))
    shown = capsys.readouterr().out
    assert_narrow(shown)
    assert len(shown.splitlines()) == 6


def test_a_whole_run_in_a_log(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All that the stages up to the export print, and the check of the run folder."""
    config = make_config(tmp_path, base, "train.max_steps=2")
    run: Run = run_to(config, "export", tmp_path)
    verify(run, [(name, name) for name in ("dataset", "tokens", "adapter", "export")])
    shown = capfd.readouterr()
    assert "export:" in shown.out
    assert "\r" not in shown.out + shown.err
    assert_narrow(shown.out)
