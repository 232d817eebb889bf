"""One rank fails: all end, with one message that names it and its host, and the last checkpoint is whole."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.training import checkpoint, loop, tensor_store
from pipeline.training.loss_scale import LossScale
from tests.helpers.tiny import TOO_LONG, run_ranks, run_to
from tests.helpers.training_runs import losses_of

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
Start = Callable[..., tuple[Config, Run]]
HOST = socket.gethostname()


def in_step(monkeypatch: pytest.MonkeyPatch, rank: int, step: int, act: Callable[[], object]) -> None:
    """`act` in the backward pass of a rank's step (from 0); each step has one micro-batch."""
    at, mark, stock = [-1], loop.mark, LossScale.backward

    def marked(kind: str, number: int | None = None) -> None:
        at[0] = -1 if number is None else number
        mark(kind, number)

    def backward(scaling: LossScale, value: torch.Tensor) -> torch.Tensor:
        if at[0] == step and os.environ.get("RANK") == str(rank):
            act()
        return stock(scaling, value)

    monkeypatch.setattr(loop, "mark", marked)
    monkeypatch.setattr(LossScale, "backward", backward)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hang() -> None:
    time.sleep(1000)


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def memory() -> None:
    raise MemoryError("no memory for the rows")


def fault() -> None:
    raise ValueError("a fault of a library")


@pytest.mark.parametrize(
    ("act", "rank", "code", "says"),
    [
        (kill, 0, -signal.SIGKILL, f"rank 0 on {HOST}"),
        (kill, 1, -signal.SIGKILL, f"rank 1 on {HOST} has given no sign of life"),
        (kill, 2, -signal.SIGKILL, f"rank 2 on {HOST} has given no sign of life"),
        (freeze, 1, TOO_LONG, f"rank 1 on {HOST} has given no sign of life"),
        (hang, 1, 2, f"rank 1 on {HOST} hangs"),
        (full, 1, 2, f"rank 1 on {HOST}: no space left on the disk"),
        (memory, 1, 2, f"rank 1 on {HOST}: out of memory"),
        (fault, 1, 2, f"rank 1 on {HOST}: ValueError: a fault of a library"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_one_failure_ends_all(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    act: Callable[[], object], rank: int, code: int, says: str,
) -> None:  # fmt: skip
    world = 3 if rank == 2 else 2
    monkeypatch.setenv("SURI_RANKS_TIMEOUT", "6")
    in_step(monkeypatch, rank, 3, act)
    config, run = start("train.micro_tokens=4000")
    codes = run_ranks(world, lambda: run_to(config, "train", run.root.parent))
    assert codes == [code if number == rank else 2 for number in range(world)]
    error = capfd.readouterr().err
    assert error.count("suri: ") == 1, error
    assert says in " ".join(error.split())
    folder = run.folder("checkpoints")
    assert checkpoint.steps(folder)[-1] == 3
    assert checkpoint.damage(folder, 3) == ""


def test_the_run_goes_on_after_a_failure(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURI_RANKS_TIMEOUT", "6")
    config, run = start(name="whole")
    whole = run_to(config, "train", run.root.parent)
    config, run = start(name="killed")
    with monkeypatch.context() as patched:
        in_step(patched, 1, 4, kill)
        assert run_ranks(2, lambda: run_to(config, "train", run.root.parent)) == [2, -signal.SIGKILL]
    assert run_ranks(2, lambda: run_to(config, "train", run.root.parent)) == [0, 0]
    assert losses_of(run) == pytest.approx(losses_of(whole), rel=1e-6)


@pytest.mark.parametrize(("rank", "settings"), [(0, ()), (1, ("adapter={method: full}", "train.shard=full"))])
def test_a_full_disk_of_a_rank_that_writes(
    rank: int, settings: tuple[str, ...], start: Start, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whole weights are written by the first rank, sharded ones by all."""
    stock = tensor_store.write

    def write(folder: Path, name: str, tensors: tensor_store.Tensors) -> None:
        if "step-000002" in str(folder) and os.environ.get("RANK") == str(rank):
            full()
        stock(folder, name, tensors)

    monkeypatch.setattr(tensor_store, "write", write)
    config, run = start(*settings)
    assert run_ranks(2, lambda: run_to(config, "train", run.root.parent)) == [2, 2]
    error = capfd.readouterr().err
    assert error.count("suri: ") == 1
    assert f"rank {rank} on {HOST}: no space left on the disk" in " ".join(error.split())
    assert checkpoint.steps(run.folder("checkpoints")) == [1]


def test_a_signal_saves_and_stops_all(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One rank is asked to end: all stop after the same step, and the first says how to go on."""
    in_step(monkeypatch, 1, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    config, run = start("train.save_every=100")
    codes = run_ranks(2, lambda: run_to(config, "train", run.root.parent))
    assert codes == [130, 130] or codes == [130, 128 + signal.SIGTERM]
    assert capfd.readouterr().err.count("its checkpoint is written") == 1
    assert checkpoint.steps(run.folder("checkpoints")) == [2]


def test_more_ranks_than_rows(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    config, run = start("train.batch_size=2")
    assert run_ranks(3, lambda: run_to(config, "train", run.root.parent)) == [2, 2, 2]
    error = " ".join(capfd.readouterr().err.split())
    assert error.count("suri: ") == 1
    assert "3 processes, and a step has 2 rows" in error
