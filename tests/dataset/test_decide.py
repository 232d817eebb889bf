"""Decisions that hang together: who goes on, and where to, after the whole data stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.folder import Run
from tests.helpers.data_stage import Build, lines_of, rules_of
from tests.helpers.tiny import load_examples


def source(folder: Path, name: str, rows: list[Any], **more: Any) -> dict[str, Any]:
    (folder / name).write_text(json.dumps(rows))
    return {"path": str(folder / name), **more}


def test_val_is_its_share_of_what_a_limit_leaves(tmp_path: Path, build: Build) -> None:
    rows = [{"instruction": f"Question {i}", "output": f"answer {i}"} for i in range(4000)]
    report = build(source(tmp_path, "a.json", rows, limit=1000), val=0.2, duplicates={"near": 0})
    assert report["kept"] == 1000
    assert report["val"] == pytest.approx(200, abs=40)  # three standard deviations


@pytest.mark.parametrize("exact", [True, False])
def test_a_copy_without_the_held_out_task_is_not_learnt(tmp_path: Path, run: Run, build: Build, exact: bool) -> None:
    same = {"instruction": "Sort: b a", "input": "", "output": "a b"}
    other = {"instruction": "Say hello.", "input": "", "output": "Hello."}
    report = build(
        source(tmp_path, "plain.json", [same, other]),
        source(tmp_path, "tasks.json", [{**same, "task": "sort"}]),
        holdout=["sort"],
        duplicates={"exact": exact, "near": 0},
    )
    assert [e.instruction for e in load_examples(run, "train")] == ["Say hello."]
    assert report["holdout"] == (1 if exact else 2)


def test_words_on_either_side_of_a_field_border_are_other_rows(tmp_path: Path, build: Build) -> None:
    rows = [
        {"instruction": "Repeat", "input": "a b", "output": "c"},
        {"instruction": "Repeat", "input": "a", "output": "b c"},
        {"instruction": "Repeat a", "input": "b", "output": "c"},
    ]
    given = source(tmp_path, "a.json", rows)
    assert build(given, duplicates={"near": 0})["train"] == 3
    assert rules_of(build(source(tmp_path, "b.json", [*rows, rows[0]]), duplicates={"near": 0})) == {
        "duplicate": (1, 0, 0)
    }


def test_novelty_passes_turns_of_conversations_by(tmp_path: Path, run: Run, build: Build) -> None:
    def talk(about: str) -> dict[str, Any]:
        said = [f"Tell me of {about}.", f"The {about} is far.", "Please go on with it.", f"And the {about} is old."]
        return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]}

    alone = [{"instruction": "Please go on with it.", "output": text} for text in ("Gladly, here it is.", "No more.")]
    report = build(
        source(tmp_path, "talks.json", [talk("sea"), talk("moon")]), source(tmp_path, "a.json", alone),
        duplicates={"near": 0, "novelty": 0.7},
    )  # fmt: skip
    assert rules_of(report) == {"not-novel": (1, 0, 0)}
    assert [line["row"]["output"] for line in lines_of(run, "rejected")] == ["No more."]
