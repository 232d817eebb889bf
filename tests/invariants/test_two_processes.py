"""Two processes train the model of one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.training import fast_path as paths
from tests.helpers.tiny import make_config, train_on_two
from tests.helpers.training_runs import (
    QUICK,
    UNDROPPED,
    assert_close,
    assert_same,
    branch,
    losses_of,
    penalties_of,
    tokens_of,
)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_learn_the_same(finished: tuple[Config, Run], tmp_path: Path) -> None:
    """Every other step has one row, so one of them has none."""
    rows = len(tokens_of(finished[1]))
    settings = (*UNDROPPED, f"train.batch_size={rows - 1}", "train.max_steps=4")
    alone = branch(finished, tmp_path / "alone", *settings)
    for stage in ("dataset", "tokens"):
        shutil.copytree(finished[1].folder(stage), tmp_path / "both" / "tiny" / stage)
    run = train_on_two(make_config(tmp_path / "both", Path(finished[0].model.base), *settings), tmp_path / "both")
    assert_close(run, alone)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_ranks_agree_on_the_size_of_packs(
    quick: tuple[Config, Run], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has another amount of memory free; dropout depends on how steps are cut up, so a resumed run shows it."""
    monkeypatch.setattr(paths, "choose_packed", lambda *_: ((250, False), (140, False))[int(os.environ["RANK"])])
    for name in ("whole", "resumed"):
        for stage in ("dataset", "tokens"):
            shutil.copytree(quick[1].folder(stage), tmp_path / name / "tiny" / stage)
    whole = train_on_two(make_config(tmp_path, base, *QUICK), tmp_path / "whole")
    state = json.loads((whole.folder("checkpoints") / "step-000004" / "state.json").read_text())
    assert state["micro_tokens"] == 140
    run = Run(tmp_path / "resumed" / "tiny")
    shutil.copytree(whole.root, run.root, dirs_exist_ok=True)
    shutil.rmtree(run.folder("adapter"))
    shutil.rmtree(run.folder("checkpoints") / "step-000004")
    assert_same(train_on_two(make_config(tmp_path, base, *QUICK), tmp_path / "resumed"), whole)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_are_held_alike(finished: tuple[Config, Run], text: Path, tmp_path: Path) -> None:
    settings = ("adapter.dropout=0", "train.l2_sp=5", "train.ewc=5", f"train.ewc_data={text}", "train.max_steps=4")
    alone = branch(finished, tmp_path / "alone", *settings)
    for stage in ("dataset", "tokens"):
        shutil.copytree(finished[1].folder(stage), tmp_path / "both" / "tiny" / stage)
    run = train_on_two(make_config(tmp_path / "both", Path(finished[0].model.base), *settings), tmp_path / "both")
    assert losses_of(run) == pytest.approx(losses_of(alone), rel=1e-5)
    assert penalties_of(run) == pytest.approx(penalties_of(alone), rel=1e-3)
