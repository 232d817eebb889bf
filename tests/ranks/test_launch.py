"""Starting the ranks of a host: how many, what is said when one fails, and going on by itself."""

from __future__ import annotations

import faulthandler
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from pipeline.cli import main
from pipeline.command import guarded
from pipeline.config.schema import Config
from pipeline.ranks import launch as launching
from pipeline.ranks.launch import check_count, launch_command, restarts_of
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.training import checkpoint
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import losses_of
from tests.ranks.conftest import SETTINGS
from tests.ranks.test_failure import in_step, kill

needs_gloo = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
Start = Callable[..., tuple[Config, Run]]


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "65"])
def test_a_count_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="is no number of cards"):
        check_count(text, "GPUS")


def test_more_cards_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(launching, "uses_cpu", lambda: False)
    monkeypatch.setattr(launching, "card_count", lambda: 2)
    assert check_count("2", "GPUS") == 2
    with pytest.raises(UserError) as error:
        check_count("4", "GPUS")
    assert error.value.what == f"4 cards are asked for, and torch sees 2 on {socket.gethostname()}"
    assert error.value.fix.startswith("set GPUS=2")


def test_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(launching, "uses_cpu", lambda: True)
    monkeypatch.setattr(launching, "card_count", lambda: 0)
    assert check_count("1", "--gpus") == 1
    with pytest.raises(UserError, match="torch sees 0"):
        check_count("2", "--gpus")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert check_count("2", "--gpus") == 2


def test_restarts() -> None:
    assert restarts_of("", "RESTARTS") == 0
    assert restarts_of("3", "RESTARTS") == 3
    with pytest.raises(UserError, match="'many' is no number of restarts"):
        restarts_of("many", "RESTARTS")
    assert restarts_of("0", "RESTARTS", count=1) == 0
    with pytest.raises(UserError, match="only the processes of several cards are started again"):
        restarts_of("3", "RESTARTS", count=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpus=2", "train.batch_size=1"), "2 processes, and a step has 1 rows"),
        (("--gpus=2", "train.tracker=clearml"), "the tracker 'clearml' is not installed"),
        (("--restarts=3",), "only the processes of several cards are started again"),
        (("--gpus=1", "--restarts=3"), "only the processes of several cards are started again"),
    ],
)
def test_refused_before_any_process_is_started(
    words: tuple[str, ...], message: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make_config(tmp_path, base)
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(launching, "launch", lambda *_: pytest.fail("was started"))
    assert main.start(["train", str(tmp_path / "tiny.yaml"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def ranks(config: Config, run: Run) -> Callable[[], None]:
    """What a forked rank does: it trains."""

    def work() -> None:
        faulthandler.dump_traceback_later(20, exit=True)
        AcceleratorState._reset_state(True)
        os.environ |= {"ACCELERATE_USE_CPU": "true", "TOKENIZERS_PARALLELISM": "false"}
        code = guarded(lambda: run_to(config, "train", run.root.parent) and None)
        if code:
            os._exit(code)

    return work


@needs_gloo
def test_a_killed_rank_is_named(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    in_step(monkeypatch, 1, 3, kill)
    config, run = start()
    with pytest.raises(UserError) as error:
        launch_command(2, ranks(config, run))
    assert error.value.what == f"rank 1 on {socket.gethostname()} was ended by signal 9 (SIGKILL)"
    assert checkpoint.damage(run.folder("checkpoints"), 3) == ""


@needs_gloo
def test_an_error_is_said_by_its_rank(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    config, run = start("train.batch_size=1")
    with pytest.raises(SystemExit) as error:
        launch_command(2, ranks(config, run))
    assert error.value.code == 2
    text = " ".join(capfd.readouterr().err.split())
    assert text.count("suri: ") == 1
    assert "2 processes, and a step has 1 rows" in text


# The first rank kills itself in its fifth step, unless it was started again.
KILLED_ONCE = """
import os, signal, sys
from pipeline.cli.main import start
from pipeline.training import update

stock, steps = update.take_step, []

def take_step(optimizer, rate):
    steps.append(rate)
    if len(steps) == 5 and os.environ["RANK"] == "0" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    stock(optimizer, rate)

update.take_step = take_step
raise SystemExit(start(sys.argv[1:]))
"""


@needs_gloo
def test_restarted_ranks_go_on_from_the_last_checkpoint(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with `torchrun --max-restarts`, whose agent this is, and with processes that are no forks either."""
    config, run = start(name="whole")
    whole = run_to(config, "train", run.root.parent)
    config, run = start(name="killed")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("RUNS", str(run.root.parent))
    words = ["train", f"--config={run.root.parent / 'tiny.yaml'}", *SETTINGS]
    launch_command(2, ["-c", KILLED_ONCE, *words], restarts=1)
    assert "resuming from step 4 of 6" in capfd.readouterr().out
    assert losses_of(run) == pytest.approx(losses_of(whole), rel=1e-6)
