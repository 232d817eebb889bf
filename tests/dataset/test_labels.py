"""Sources that share a path are told apart, in the rows and in every table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Source
from pipeline.data_report import stage as report_stage
from pipeline.dataset import stage
from pipeline.dataset.diff import show
from pipeline.dataset.read.source import labels
from pipeline.run.folder import Run
from tests.helpers.data_stage import config_of, lines_of
from tests.helpers.report_run import without_parser

GAS = "Which gas do green plants take from the air when they make sugar with the help of sunlight?"


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([("a", ""), ("b", "x")], ["a", "b"]),
        ([("a", "x"), ("a", "y"), ("a", "")], ["a:x", "a:y", "a"]),
        ([("a", ""), ("a", ""), ("a", "")], ["a", "a #2", "a #3"]),
        ([("a", "x"), ("a", "x")], ["a:x", "a:x #2"]),
        ([("a", ""), ("a", ""), ("a #2", ""), ("a", "x"), ("a:x", "")], ["a", "a #3", "a #2", "a:x #2", "a:x"]),
    ],
)
def test_no_two_sources_have_one_label(sources: list[tuple[str, str]], said: list[str]) -> None:
    assert labels([Source(path=path, subset=subset) for path, subset in sources]) == said


@pytest.fixture
def twice(tmp_path: Path) -> tuple[Run, str]:
    """A run of one file read twice, by other columns: 6 rows with answers in English, 5 with answers in Korean."""
    rows = [{"q": f"Say the number {n}.", "en": f"It is {n}, say I.", "ko": f"{n}번이라고 말합니다."} for n in range(5)]
    rows.append({"q": f"Answer this: {GAS}", "en": "Carbon dioxide.", "ko": "이산화탄소"})
    rows.append({"q": "Say no number at all.", "en": "N/A", "ko": "\ud800"})
    path = str(tmp_path / "한국.json")
    Path(path).write_text(json.dumps(rows))
    (tmp_path / "quiz.txt").write_text(GAS)
    run = Run(tmp_path / "run")
    sources = [{"path": path, "columns": {"instruction": "q", "output": name}} for name in ("en", "ko")]
    sources[1]["repeat"] = 2
    config = config_of(*sources, benchmarks=[{"path": str(tmp_path / "quiz.txt")}], duplicates={"near": 0})
    stage.build(config, run)
    with pytest.MonkeyPatch.context() as patch:
        without_parser(patch)
        report_stage.build(config, run, report_stage.key(config, run))
    return run, path


def test_one_path_twice_is_two_sources_in_every_table(twice: tuple[Run, str]) -> None:
    run, path = twice
    both = [path, f"{path} #2"]
    report = json.loads((run.folder("dataset") / "report.json").read_text())
    assert [(s["path"], s.get("label"), s["kept"]) for s in report["sources"]] == [(path, None, 5), (path, both[1], 5)]
    rules: dict[str, Any] = {rule["rule"]: rule for rule in report["rules"]}
    assert rules["contaminated"]["by_source"] == dict.fromkeys(both, 1)
    assert rules["output-not-available"]["by_source"] == {both[0]: 1}
    assert rules["invalid-utf-8"]["by_source"] == {both[1]: 1}
    assert rules["invalid-utf-8"]["examples"][0]["source"] == both[1]
    assert report["contamination"]["table"] == {"quiz": dict.fromkeys(both, 1)}
    assert [(line["source"], line["taken"], line["repeat"]) for line in report["mix"]] == [
        (both[0], 5, 1),
        (both[1], 5, 2),
    ]
    assert [row["source"] for row in lines_of(run, "train")] == [both[0]] * 5 + [both[1]] * 10
    assert sorted(row["source"] for row in lines_of(run, "rejected")) == [both[0]] * 2 + [both[1]] * 2
    assert sorted(row["source"] for row in lines_of(run, "contaminated")) == both
    datasheet = (run.folder("dataset") / "README.md").read_text()
    assert f"| `{Path(both[1]).name}` | columns | 7 | 5 | 2 | 0 |" in datasheet  # without the folders of this machine


def test_one_path_twice_is_two_sources_on_the_page(twice: tuple[Run, str]) -> None:
    run, name = twice[0], Path(twice[1]).name
    numbers = json.loads((run.folder("report") / "report.json").read_text())
    groups = [(group["source"], group["rows"]) for group in numbers["lengths"]["groups"]]
    assert groups == [(name, 5), (f"{name} #2", 10)]
    page = (run.folder("report") / "data_report.html").read_text()
    for label in (name, f"{name} #2"):
        cells = re.findall(rf">{re.escape(label)}</t[dh]>", page)
        assert len(cells) >= 3  # in the tables of sources, mixture and lengths
    assert f'data-source="{name} #2"' in page


def test_a_diff_counts_them_apart(twice: tuple[Run, str], capsys: pytest.CaptureFixture[str]) -> None:
    run, path = twice
    show(run.root, run.root)
    said = capsys.readouterr().out
    assert f"  kept of {path} #2" in said
    assert "no row differs" in said
