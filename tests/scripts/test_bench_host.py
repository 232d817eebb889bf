"""The one call that measures a host: its parts, a part that takes too long, and what it refuses."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.run.errors import UserError
from scripts.benchmarks import bench_host
from scripts.benchmarks.bench_host import Part


def test_predictions_come_before_measurements(tmp_path: Path) -> None:
    parts = bench_host.parts_of("rows.json", "tokenizer", 8, tiny=False, work=tmp_path)
    modules = [next(word for word in part.words if word.startswith("scripts.")) for part in parts]
    scaling = "scripts.benchmarks.bench_scaling"
    assert modules == ["scripts.plan", scaling, scaling, "scripts.benchmarks.bench_sharded", "scripts.train"]
    assert [part.words[-1] for part in parts[1:3]] == ["--rows=128", "--rows=1024"]
    assert all("--cards=1,8" in part.words for part in parts[1:3])
    assert "--gpus=8" in parts[-1].words
    recipe = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert recipe["train"]["batch_size"] == 128
    assert recipe["model"]["geometry"]["num_hidden_layers"] == 32


def test_a_part_that_takes_too_long_is_ended_and_noted(tmp_path: Path) -> None:
    out, started = tmp_path / "out.md", time.monotonic()
    child = "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    endless = f"import subprocess, sys; print('begun', flush=True); {child}"
    bench_host.run(Part("endless", [sys.executable, "-c", endless], 2), out, tmp_path)
    bench_host.run(Part("short", [sys.executable, "-c", "print(6 * 7); raise SystemExit(3)"], 60), out, tmp_path)
    assert time.monotonic() - started < 300
    text = out.read_text()
    assert "begun" in text
    assert "cut off after 2 s" in text
    assert "42\n```\n" in text
    assert text.rstrip().endswith("exit code 3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cards=2", "--tiny"], "no data"),
        (["FILE", "FOLDER", "--tiny"], "no number of cards above 1"),
        (["FILE", "FOLDER", "--cards=one", "--tiny"], "'one' is no number"),
        (["FILE", "FOLDER", "--cards=2", "--tinny"], "no such option: --tinny"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    (tmp_path / "rows.json").write_text("[]")
    places = {"FILE": str(tmp_path / "rows.json"), "FOLDER": str(tmp_path)}
    monkeypatch.setattr(sys, "argv", ["bench_host", *(places.get(word, word) for word in words)])
    with pytest.raises(UserError, match=message):
        bench_host.main()
