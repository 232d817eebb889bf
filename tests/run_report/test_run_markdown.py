"""run_report.md: the run report as Markdown, with the total time; hostile text stays text."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

from pipeline.run.folder import Run
from pipeline.run_report.stage import MARKDOWN, build
from tests.helpers.overview_run import RUN, finish, whole
from tests.helpers.report_run import CONFIG, make_run

__all__ = ["whole"]  # a fixture: used by name


def test_it_has_settings_data_training_results_samples_and_time(whole: Path) -> None:
    text = (whole.parent / MARKDOWN).read_text(encoding="utf-8")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == [
        "Settings", "Data", "Training", "Results", "Samples", "Time",
    ]  # fmt: skip
    for line in ("**Better on the task by 75 ± 25 points (4 answers)", "| left out by limits | 2 |", "| steps | 40 |",
                 "| held-out rows: exact match (4 answers) | 0.0% ± 0.0% | 75.0% ± 25.0% |", "- expected: yes",
                 "| training | 1 min 16 s |", "| total | 1 min 1"):  # fmt: skip
        assert line in text, line
    assert "<script" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "somebody" not in text, "a folder of this machine"


def test_a_stage_counts_from_its_beginning(tmp_path: Path) -> None:
    run = Run(tmp_path)
    begun = replace(run.made_from([]), started=time.time() - 100)  # as if its work had taken so long
    with begun.writing("dataset", {}):
        pass
    with run.writing("tokens", {}):
        pass
    seconds = {folder: run.manifest(folder)["seconds"] for folder in ("dataset", "tokens")}
    assert seconds["dataset"] >= 100 > seconds["tokens"]


def test_it_works_early_and_is_the_same_each_time(tmp_path: Path) -> None:
    run = make_run(tmp_path / "test")
    build(CONFIG, run)
    early = (run.root / MARKDOWN).read_bytes()
    assert b"`make export CONFIG=...`" in early
    build(CONFIG, run)
    assert (run.root / MARKDOWN).read_bytes() == early
    build(RUN, finish(run))
    assert b"Better on the task" in (run.root / MARKDOWN).read_bytes()
