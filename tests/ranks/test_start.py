"""Ranks of a real run that do not fit are refused before any work."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import stages
from pipeline.config.schema import Config
from pipeline.ranks import card, launcher, meeting
from pipeline.run.folder import Run
from tests.helpers.tiny import make_config, run_ranks, run_to

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
Start = Callable[..., tuple[Config, Run]]


def test_other_configs_are_refused(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    config, run = start()
    other, _ = start("train.lr=1e-3")
    before = sorted(run.root.rglob("*"))
    codes = run_ranks(2, lambda: run_to((config, other)[int(os.environ["RANK"])], "train", run.root.parent))
    assert codes == [2, 2]
    error = " ".join(capfd.readouterr().err.split())
    assert error.count("suri: ") == 1
    assert "the ranks differ in config: " in error
    assert sorted(run.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("environment", "settings", "message"),
    [
        ({launcher.DEEPSPEED: "true"}, (), "suri: DeepSpeed's engine would replace the training loop"),
        ({launcher.FSDP: "true"}, ("adapter.dora=true",), "suri: the weights cannot be sharded: DoRA is not among"),
        ({}, ("train.batch_size=1",), "suri: 2 processes, and a step has 1 rows"),
        ({}, ("train.tracker=clearml",), "suri: the tracker 'clearml' is not installed"),
        ({}, ("model.dtype=fp16",), "suri: fp16 needs a Volta card or newer"),
    ],
)
def test_what_no_data_can_change_is_refused_before_they_are_made(
    environment: dict[str, str], settings: tuple[str, ...], message: str, base: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = make_config(tmp_path, base, *settings)
    assert run_ranks(2, lambda: run_to(config, "train", tmp_path)) == [2, 2]
    error = " ".join(capfd.readouterr().err.split())
    assert error.count("suri: ") == 1
    assert message in error
    assert not (tmp_path / "tiny").exists()


def test_a_missing_card_is_refused_before_data_are_made(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As torchrun starts it, which counts no cards."""
    monkeypatch.setattr(card, "uses_cpu", lambda: False)
    monkeypatch.setattr(card, "card_count", lambda: 1)
    monkeypatch.setattr(card, "card_name", lambda local: "a card")
    config = make_config(tmp_path, base)
    assert run_ranks(2, lambda: run_to(config, "train", tmp_path)) == [2, 2]
    error = " ".join(capfd.readouterr().err.split())
    host = socket.gethostname()
    assert f"suri: rank 1 ({host}): there is no card for the 2. process of {host}: torch sees 1" in error
    assert not (tmp_path / "tiny").exists()


def test_other_folders_are_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(meeting, "SEEN_AFTER", 0.5)
    config, run = start(name="one")
    _, other = start(name="two")
    codes = run_ranks(2, lambda: run_to(config, "train", (run, other)[int(os.environ["RANK"])].root.parent))
    assert codes == [2, 2]
    error = " ".join(capfd.readouterr().err.split())
    assert error.count("suri: ") == 1
    assert "cannot see the run folder of rank 0" in error


def test_a_rank_that_does_not_come(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SURI_RANKS_WAIT", "1")
    monkeypatch.setattr(meeting, "SEEN_AFTER", 0.2)
    config, run = start()

    def work() -> None:
        if os.environ["RANK"] == "1":
            time.sleep(6)
            os._exit(0)
        stages.bring_up_to_date(config, run, "train")

    assert run_ranks(2, work) == [2, 0]
    assert "rank 1 of 2 did not answer within 1 s" in " ".join(capfd.readouterr().err.split())


def test_nothing_answers_at_the_address(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SURI_RANKS_WAIT", "2")
    config, run = start()

    def work() -> None:
        if os.environ["RANK"] == "0":
            os._exit(0)
        os.environ["LOCAL_RANK"] = "0"
        stages.bring_up_to_date(config, run, "train")

    assert run_ranks(2, work) == [0, 2]
    assert "nothing answers at 127.0.0.1:" in " ".join(capfd.readouterr().err.split())
