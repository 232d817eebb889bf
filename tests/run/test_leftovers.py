"""`make clean` and `make clean-runs`: half-written folders, and runs only when they were named first."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.main import start
from pipeline.cli.run_folders import run_folders
from pipeline.run.folder import Run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, one of which was killed while it exported; a folder, a file and a link that are none."""
    root = tmp_path / "runs"
    for name in ("a", "b"):
        with Run(root / name).lock(), Run(root / name).writing("dataset", {}) as output:
            (output.folder / "train.jsonl").write_text("x" * 2_000_000)
    (root / "a" / ".export.tmp").mkdir()
    (root / "mine").mkdir()
    (root / "mine" / "thesis.txt").write_text("mine")
    (root / "notes.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.yaml").write_text("")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("RUNS", str(root))
    return root


def test_clean_removes_half_written_folders_only(runs: Path) -> None:
    assert start(["clean"]) == 0
    assert not (runs / "a" / ".export.tmp").exists()
    assert [p.name for p in run_folders(runs)] == ["a", "b"]


def test_clean_leaves_a_run_that_is_at_work(runs: Path) -> None:
    with Run(runs / "a").lock():
        (runs / "a" / ".export.tmp").mkdir()
        assert start(["clean"]) == 0
        assert (runs / "a" / ".export.tmp").exists()


def test_runs_are_named_and_stay(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(["clean-runs"]) == 2
    said = capsys.readouterr()
    assert said.out.count("2.0 MB") == 2
    assert str(runs / "a") in said.out
    assert "thesis" not in said.out
    assert "YES=1" in said.err
    assert [p.name for p in run_folders(runs)] == ["a", "b"]


def test_runs_go_when_it_is_wanted(runs: Path) -> None:
    assert start(["clean-runs", "--yes"]) == 0
    assert sorted(p.name for p in runs.iterdir()) == ["link", "mine", "notes.txt"]
    assert (runs.parent / "elsewhere" / "config.yaml").exists()
    assert start(["clean-runs", "--yes"]) == 2  # nothing is left


def test_a_run_at_work_is_not_removed(runs: Path) -> None:
    with Run(runs / "b").lock():
        assert start(["clean-runs", "--yes"]) == 2
        assert (runs / "b" / "dataset" / "train.jsonl").exists()


def test_up_to_date_sweeps_too(runs: Path) -> None:
    Run(runs / "a").sweep()
    assert not (runs / "a" / ".export.tmp").exists()
