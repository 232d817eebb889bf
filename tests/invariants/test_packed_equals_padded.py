"""Packs and padded rows train the same model; the golden losses of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.training import metrics
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import (
    UNDROPPED,
    assert_close,
    branch,
    losses_of,
)

GOLDEN = [6.015220, 6.003774, 6.014905]


def test_golden_first_losses(finished: tuple[Config, Run]) -> None:
    assert losses_of(finished[1])[:3] == pytest.approx(GOLDEN, abs=2e-5)


def test_both_paths_learn_the_same(finished: tuple[Config, Run], undropped: Run, tmp_path: Path) -> None:
    plain = branch(finished, tmp_path, *UNDROPPED, "train.fast=false")
    assert undropped.manifest("adapter")["counts"]["path"] == "fast"
    assert plain.manifest("adapter")["counts"]["path"] == "plain"
    assert_close(undropped, plain)
    held_out = [
        [m["val_loss"] for m in metrics.read(r.root / "metrics.jsonl") if "val_loss" in m] for r in (undropped, plain)
    ]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-6)


def test_every_weight_in_bf16_takes_the_fast_path(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # a process otherwise has one precision for good
    words = ("adapter={method: full}", "model.dtype=bf16", "train.max_steps=2", "train.lr=1e-3", "eval.prompts=[]")
    run = run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert run.manifest("adapter")["counts"]["path"] == "fast"
    found = re.search(r"reference \(loss (\S+), gradient (\S+),", " ".join(capsys.readouterr().out.split()))
    assert float(found[1]) < 1e-2
    assert 1e-4 < float(found[2]) < 0.1  # rounding in bf16, so autocast was on
