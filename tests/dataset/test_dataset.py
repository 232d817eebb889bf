"""The data stage as a whole: what it decides, and what it leaves on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config.schema import Config
from pipeline.dataset import stage
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.data_stage import Build, config_of, lines_of, refused, rules_of, story
from tests.helpers.sources import ROWS, A, B, C
from tests.helpers.tiny import load_examples

# --- limit, held-out tasks, exact


def test_limit_depends_on_content_alone(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(20)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.json").write_text(json.dumps(rows[::-1]))
    report = build({"path": str(tmp_path / "a.json"), "limit": 5})
    assert report["sources"][0]["left_out"] == report["rejected"] == 15
    first = [e.id for e in load_examples(run, "train")]
    build({"path": str(tmp_path / "b.json"), "limit": 5})
    assert [e.id for e in load_examples(run, "train")] == first[::-1]
    assert build({"path": str(tmp_path / "a.json"), "limit": 50})["train"] == 20


def test_all_tasks_held_out_leaves_nothing_to_learn(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{**A, "task": "t"}]))
    assert "no row is left to train on" in refused(run, tmp_path / "a.json", holdout=["t"])


def test_generated_families_are_exact(run: Run, build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    report = build({"path": "families", "rows": 40}, tmp_path / "a.json", val=5, val_exact_only=True)
    assert report["train"] == 38
    assert [e.exact for e in load_examples(run, "val")] == [True] * 5
    assert [e.exact for e in load_examples(run, "train")[-3:]] == [False] * 3
    assert all(e.task for e in load_examples(run, "val"))


def test_exact_flag_of_a_source(tmp_path: Path, run: Run, build: Build) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    build({"path": str(tmp_path / "a.json"), "exact": True})
    assert all(e.exact for e in load_examples(run, "train"))


# --- up to date


def is_current(run: Run, config: Config) -> bool:
    return run.is_current("dataset", stage.key(config, run))


def test_up_to_date(tmp_path: Path, run: Run, build: Build) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    assert not is_current(run, config_of(path))
    build(path)
    assert is_current(run, config_of(path))
    assert not is_current(run, config_of(path, seed=7))
    os.utime(path, ns=(1, 1))
    assert is_current(run, config_of(path))
    path.write_text(json.dumps(ROWS[::-1]))
    assert not is_current(run, config_of(path))
    build(path)
    assert is_current(run, config_of(path))
    (run.folder("dataset") / "val.jsonl").unlink()
    assert not is_current(run, config_of(path))


def test_same_data_same_bytes(tmp_path: Path, run: Run, build: Build) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    build(tmp_path / "a.json", val=1)
    first = run.result("dataset")
    build(tmp_path / "a.json", val=1)
    assert run.result("dataset") == first


def test_a_failed_build_leaves_the_old_result(tmp_path: Path, run: Run, build: Build) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    build(path)
    path.write_text("[")
    with pytest.raises(UserError):
        stage.build(config_of(path), run)
    assert len(load_examples(run, "train")) == 3
    assert [p.name for p in run.root.iterdir()] == ["dataset"]


# --- duplicates, contamination, mixture


def test_duplicates_and_their_clusters(tmp_path: Path, run: Run, build: Build) -> None:
    near = {**story(1), "output": story(1)["output"] + " and more"}
    rows = [story(1), story(2), {**story(1), "instruction": "TELL  story\t1."}, near, {**near, "input": ""}, story(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = build(tmp_path / "a.json")
    assert rules_of(report) == {"duplicate": (2, 0, 0), "near-duplicate": (1, 0, 0)}
    (cluster,) = lines_of(run, "duplicates")
    assert cluster["kept"]["place"].endswith("(row 1)")
    assert [(r["place"][-7:], r["kind"]) for r in cluster["rows"]] == [
        ("(row 3)", "exact"), ("(row 4)", "near"), ("(row 5)", "exact"),
    ]  # fmt: skip
    assert cluster["rows"][2]["through"].endswith("(row 4)")
    assert report["duplicates"]["clusters"] == 1
    assert report["duplicates"]["largest"][0]["size"] == 4
    assert build(tmp_path / "a.json", duplicates={"exact": False, "near": 0})["train"] == 6
    assert rules_of(build(tmp_path / "a.json", duplicates={"near": 0})) == {"duplicate": (2, 0, 0)}
    assert rules_of(build(tmp_path / "a.json", duplicates={"exact": False})) == {"near-duplicate": (3, 0, 0)}


def test_no_near_duplicate_straddles_the_split(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [{**story(n), "output": story(n)["output"] + extra} for n in range(60) for extra in ("", " more", " x y")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    build(tmp_path / "a.json", val=0.5)
    sides = [{e.instruction for e in load_examples(run, part)} for part in ("train", "val")]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_novelty_is_the_last_of_the_comparisons(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [
        {"instruction": "Write a poem about the sea.", "output": "Blue."},
        {"instruction": "Write a poem about the sky.", "output": "Wide and bright above the town."},
        {"instruction": "Name a city.", "output": "Rome."},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert build(tmp_path / "a.json")["train"] == 3
    report = build(tmp_path / "a.json", duplicates={"novelty": 0.7})
    assert rules_of(report) == {"not-novel": (1, 0, 0)}
    assert lines_of(run, "duplicates")[0]["rows"][0]["similarity"] == pytest.approx(10 / 12, abs=1e-4)


def test_contaminated_rows_are_shown_with_the_question(tmp_path: Path, run: Run, build: Build) -> None:
    question = "Which gas do green plants take from the air when they make sugar with the help of sunlight?"
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"query": question, "choices": ["CO2", "O2"], "gold": 0}))
    rows = [{"instruction": f"Answer: {question}", "output": "Carbon dioxide."}, {**A}, {**B}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = build(tmp_path / "a.json", benchmarks=[{"path": str(tmp_path / "quiz.jsonl")}])
    assert rules_of(report) == {"contaminated": (1, 0, 0)}
    (hit,) = lines_of(run, "contaminated")
    assert (hit["benchmark"], hit["question"]) == ("quiz", question)
    assert report["contamination"]["table"] == {"quiz": {str(tmp_path / "a.json"): 1}}
    assert "quiz" in lines_of(run, "rejected")[0]["reason"]
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"query": "What is the airspeed velocity of an unladen swallow?"}))
    config = config_of(tmp_path / "a.json", benchmarks=[{"path": str(tmp_path / "quiz.jsonl")}])
    assert not is_current(run, config)


def test_repeats_weights_and_rehearsal(tmp_path: Path, run: Run, build: Build) -> None:
    for name, first in (("a", 0), ("b", 100), ("c", 200)):
        (tmp_path / f"{name}.json").write_text(json.dumps([story(first + i) for i in range(20)]))
    report = build(
        {"path": str(tmp_path / "a.json"), "weight": 2, "repeat": 2},
        {"path": str(tmp_path / "b.json"), "weight": 1},
        {"path": str(tmp_path / "c.json"), "rehearsal": True},
        rehearsal=0.2,
    )
    assert [s["taken"] for s in report["mix"]] == [20, 20, 15]
    assert [s["train"] for s in report["sources"]] == [20, 20, 15]
    assert len(lines_of(run, "train")) == 75
    assert {line["rule"] for line in lines_of(run, "rejected")} == {"rehearsal"}
    assert report["left_out"] == 5


def test_repeats_that_fill_the_disk_are_told_before(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text(json.dumps([story(i) for i in range(20)]))
    config = config_of({"path": str(tmp_path / "a.json"), "repeat": 1_000_000})
    monkeypatch.setattr("pipeline.run.files.shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(UserError, match=r"20,000,000 rows.* GB"):
        stage.build(config, run)
    assert not list(run.root.glob("*"))


def test_rules_fix_flag_and_reject(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [{**A, "input": "<noinput>"}, {**B, "output": "Mail me: jo.bloggs@gmail.com"}, {**C, "output": ""}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = build(tmp_path / "a.json")
    assert rules_of(report) == {
        "no-input-spelling": (0, 1, 0), "output-empty": (1, 0, 0), "personal-data": (0, 0, 1),
    }  # fmt: skip
    fixed, flagged = lines_of(run, "changes")
    assert (fixed["before"], fixed["after"], fixed["action"]) == ({"input": "<noinput>"}, {"input": ""}, "fixed")
    assert fixed["id"] == load_examples(run, "train")[0].id
    assert flagged["action"] == "flagged"
    assert "no such cleaning rule: 'output-emty'" in refused_rules(tmp_path)


def refused_rules(tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        stage.build(config_of(tmp_path / "a.json", rules={"output-emty": "off"}), Run(tmp_path / "other"))
    return str(caught.value)


def test_rows_by_the_thousand_go_through_processes_unchanged(tmp_path: Path, run: Run, build: Build) -> None:
    rows = [{**story(i, 4), "note": "x"} for i in range(5200)]
    rows[17] = rows[4017] = {**story(17), "output": ""}
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = build(tmp_path / "a.json")
    assert report["rejected"] == 2
    assert [e.instruction for e in load_examples(run, "train")] == [r["instruction"] for r in rows if r["output"]]
