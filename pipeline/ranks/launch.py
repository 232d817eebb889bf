"""Starts the ranks of one host by torchrun's agent, in this interpreter, and says in one message why they ended.

agent    starts the ranks, and holds the store at which they meet
a rank   ends with an error, or by a signal  ->  the agent ends the others, or starts all anew (`restarts`)
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.ranks.card import card_count, uses_cpu
from pipeline.ranks.watch import AGAIN, TOLD
from pipeline.run.errors import UserError

# What a rank runs: the same command again, with the words that follow.
COMMAND = ("-c", "import sys; from pipeline.cli.main import start; raise SystemExit(start(sys.argv[1:]))")
MOST = 64  # ranks of one host


def check_count(text: str, place: str) -> int:
    """The number of ranks that a user asked for.

    Args:
        place: the option, for the message.

    Raises:
        UserError: it is no number, or above the cards of this host.
    """
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise UserError(f"{text!r} is no number of cards", place, f"from 1 to {MOST}, such as {place}=2")
    count, cards = int(text), card_count()
    if uses_cpu():
        if count > 1 and not os.environ.get("ACCELERATE_USE_CPU"):
            what = f"{count} cards are asked for, and torch sees {cards} on {socket.gethostname()}"
            fix = f"leave {place} out; ACCELERATE_USE_CPU=1 starts {count} processes on the CPU, for tests"
            raise UserError(what, place, fix)
    elif count > cards:
        what = f"{count} cards are asked for, and torch sees {cards} on {socket.gethostname()}"
        raise UserError(what, place, f"set {place}={cards}; CUDA_VISIBLE_DEVICES may hide cards")
    return count


def launch(count: int, command: Sequence[str], restarts: int = 0) -> None:
    """Runs a command of `suri` in so many ranks, as `launch_command` does.

    Args:
        command: its words.
    """
    launch_command(count, [*COMMAND, *command], restarts)


def launch_command(count: int, command: Sequence[str] | Callable[[], Any], restarts: int = 0) -> None:
    """Runs this Python with other arguments in so many ranks.

    Args:
        command: the arguments, or (in tests) a function that forked ranks call. restarts: times that all ranks are
        started
            again after one has failed.

    Raises:
        UserError: a rank was ended by a signal. SystemExit: it failed, and has said why.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=restarts, start_method="fork",
    )  # fmt: skip
    entry, words = (command, []) if callable(command) else (sys.executable, list(command))
    with tempfile.TemporaryDirectory() as folder, _environment(folder, count) as told, _quiet():
        try:
            elastic_launch(config, entry)(*words)
        except SignalException as error:
            raise SystemExit(128 + int(error.sigval)) from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode >= 0 or told.exists():
                raise SystemExit(2 if failure.exitcode < 0 else failure.exitcode or 1) from None
            name = signal.Signals(-failure.exitcode).name
            what = f"rank {rank} on {socket.gethostname()} was ended by signal {-failure.exitcode} ({name})"
            fix = f"if the host ran out of memory, `dmesg | grep -i oom` says so; {AGAIN}"
            raise UserError(what, "train", fix) from None


@contextlib.contextmanager
def _environment(folder: str, count: int) -> Iterator[Path]:
    """Variables for the ranks; yields the file that a rank makes when it has told a failure."""
    told = Path(folder) / "told"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    added = {TOLD: str(told), "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": str(max(1, cores // count))}
    added = {name: value for name, value in added.items() if name == TOLD or name not in os.environ}
    os.environ.update(added)
    try:
        yield told
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the agent's own report of a failure, which is said here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def restarts_of(text: str, place: str, count: int = 2, ranks: str = "GPUS") -> int:
    """The number of restarts that a user asked for; none where nothing is set.

    Args:
        place: the option, for the message. count: of ranks. ranks: the option for it.

    Raises:
        UserError: it is no number, or one process is to run, which nothing would start again.
    """
    if not text:
        return 0
    if not text.isdecimal() or int(text) > 1000:
        raise UserError(f"{text!r} is no number of restarts", place, f"such as {place}=3")
    if int(text) and count == 1:
        what = f"{place}={text}: only the processes of several cards are started again"
        fix = f"leave it out, or set {ranks}=2 or more; started again by hand, the command goes on from its checkpoint"
        raise UserError(what, place, fix)
    return int(text)
