"""`make data-diff`: what changed between two builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import stage
from pipeline.dataset.diff import show
from pipeline.dataset.example import Example
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.data_stage import config_of

ROWS: list[dict[str, Any]] = [{"instruction": f"Say {i}.", "input": "", "output": f"It is {i}."} for i in range(10)]


def build(folder: Path, name: str, rows: list[Any], repeat: int = 1, **data: Any) -> Path:
    source = folder / f"{name}.json"
    source.write_text(json.dumps(rows))
    run = Run(folder / name)
    stage.build(config_of({"path": str(source), "repeat": repeat}, **data), run)
    return run.root


def changes(b: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (b / "data-diff.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry["change"], []).append(entry["row"]["instruction"])
    return {change: sorted(rows) for change, rows in found.items()}


def test_every_kind_of_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noisy = {**ROWS[3], "input": "Noinput"}
    a = build(tmp_path, "a", [*ROWS[:3], noisy, *ROWS[4:9], {**ROWS[9], "output": ""}], clean="none")
    b = build(tmp_path, "b", [*ROWS[1:3], noisy, *ROWS[4:9], {**ROWS[9], "output": ""}, {**ROWS[0], "output": "New"}])
    show(a, b)
    assert changes(b) == {
        "only in A (train)": ["Say 0."],
        "only in B (train)": ["Say 0."],
        "train, with another text": ["Say 3."],
        "train -> rejected: output-empty": ["Say 9."],
    }
    said = capsys.readouterr().out
    assert "1 rows: train -> rejected: output-empty" in said
    assert [line.split() for line in said.splitlines() if line.startswith("train ")] == [["train", "10", "9", "-1"]]


def test_rows_that_change_sides_or_number(tmp_path: Path) -> None:
    a = build(tmp_path, "a", ROWS, val=3)
    b = build(tmp_path, "b", ROWS, val=2)
    show(a, b)
    assert {change: len(rows) for change, rows in changes(b).items()} == {"val -> train": 1}
    again = build(tmp_path, "c", ROWS + ROWS[:1], val=2, duplicates={"exact": False, "near": 0})
    show(b, again)
    (change,) = changes(again)
    assert change.endswith("1 -> 2 times")


def test_each_of_several_rows_mended_to_one_text_keeps_its_own_fate(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "input": spelling} for spelling in ("N/A", "", "Noinput", "none")]
    duplicate = "train -> rejected: duplicate"
    for name, order, said in (
        ("mended-first", rows, {"train, with another text": ["N/A"], duplicate: ["", "Noinput", "none"]}),
        ("plain-first", rows[1:], {duplicate: ["Noinput", "none"]}),
    ):
        a = build(tmp_path, f"{name}-a", [*order, ROWS[1]], clean="none", duplicates={"near": 0})
        b = build(tmp_path, f"{name}-b", [*order, ROWS[1]], duplicates={"near": 0})
        show(a, b)
        ids = {Example.of(row["instruction"], row["input"], row["output"], source="").id: row["input"] for row in rows}
        found = [json.loads(line) for line in (b / "data-diff.jsonl").read_text().splitlines()]
        assert {(entry["change"], ids[entry["id"]]) for entry in found} == {
            (change, input) for change, inputs in said.items() for input in inputs
        }


def test_mended_rows_that_all_stay_and_repeats(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "input": spelling} for spelling in ("N/A", "", "Noinput")]
    plain = {"duplicates": {"exact": False, "near": 0}}
    a = build(tmp_path, "a", rows, clean="none", **plain)
    b = build(tmp_path, "b", rows, repeat=2, **plain)
    show(a, b)
    found = [json.loads(line)["change"] for line in (b / "data-diff.jsonl").read_text().splitlines()]
    assert found == ["train, 1 -> 2 times", "train, with another text", "train, with another text"]


def test_rejected_copies_are_counted_and_the_best_fate_is_told(tmp_path: Path) -> None:
    bad = {**ROWS[0], "output": ""}
    a = build(tmp_path, "a", [bad, ROWS[1], ROWS[1], ROWS[2]])
    b = build(tmp_path, "b", [bad, bad, bad, ROWS[1], ROWS[2]])
    show(a, b)
    assert changes(b) == {"rejected: output-empty, 1 -> 3 times": ["Say 0."]}


def test_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = build(tmp_path, "a", ROWS), build(tmp_path, "b", ROWS[::-1])
    show(a, b)
    assert "no row differs" in " ".join(capsys.readouterr().out.split())
    assert changes(b) == {}


def test_a_build_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished data set"):
        show(build(tmp_path, "a", ROWS), tmp_path / "b")
