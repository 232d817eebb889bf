"""Several cards of one machine, by NCCL: the losses of one card, and an end within a minute when a rank is killed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.ranks.launch import launch, launch_command
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.tiny import make_config
from tests.helpers.training_runs import losses_of

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
SETTINGS = ("adapter.dropout=0", "eval.prompts=[]", "eval.rows=1", "train.micro_tokens=400")
KILLS = """
import os, signal, sys
from pipeline.cli.main import start
from pipeline.training import update

stock, steps = update.take_step, []

def take_step(optimizer, rate):
    steps.append(rate)
    if len(steps) == 5 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    stock(optimizer, rate)

update.take_step = take_step
raise SystemExit(start(sys.argv[1:]))
"""


def words(base: Path, folder: Path, dtype: str) -> tuple[Config, list[str], Run]:
    folder.mkdir()
    settings = [*SETTINGS, f"model.dtype={dtype}"]
    config = make_config(folder, base, *settings)
    return config, ["train", f"--config={folder / 'tiny.yaml'}", *settings], Run(folder / "tiny")


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_two_cards_learn_what_one_does(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, tolerance: float
) -> None:
    losses = []
    for count in (1, 2):
        _, command, run = words(base, tmp_path / str(count), dtype)
        monkeypatch.setenv("RUNS", str(run.root.parent))
        launch(count, command)
        losses.append(losses_of(run))
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


def test_a_killed_rank_ends_all(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, command, run = words(base, tmp_path / "run", "fp32")
    monkeypatch.setenv("RUNS", str(run.root.parent))
    started = time.monotonic()
    with pytest.raises((UserError, SystemExit)) as error:
        launch_command(2, ["-c", KILLS, *command])
    assert time.monotonic() - started < 150  # with the imports and the first steps; the end itself takes under 60 s
    if isinstance(error.value, UserError):
        assert f"signal {signal.SIGKILL.value}" in error.value.what
