"""The processes of a run: their Accelerator, what they exchange each step, and signals that stop them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from torch import distributed

from pipeline.ranks.card import check_card_exists
from pipeline.ranks.group import join_group
from pipeline.ranks.launcher import FSDP, check_launcher, launched_with_fsdp
from pipeline.ranks.place import Place
from pipeline.ranks.watch import CONNECT, FREE, exchanging, mark, watch
from pipeline.training.early import check_tracker

# With it and FSDP, transformers loads weights in the first rank only, and those of the other ranks stay empty.
FIRST_RANK_LOADS = "FSDP_CPU_RAM_EFFICIENT_LOADING"


def start_accelerator(dtype: str, tracker: str, folder: Path) -> Accelerator:
    """The Accelerator of this process. dtype: `bf16`, `fp16` or `fp32`. folder: where a tracker writes.

    Raises:
        UserError: the tracker is not installed, there is no card for this rank, or it was started with DeepSpeed.
    """
    check_launcher()
    check_tracker(tracker)
    if launched_with_fsdp():
        os.environ[FIRST_RANK_LOADS] = "false"
    # cuBLAS needs it for a fixed order of sums, and reads it at the first product. The default of an H200.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    place = Place.here()
    if place.world > 1:
        check_card_exists(place)
    mark(CONNECT)
    if own := watch():
        join_group(own.board, place)
    on_card = torch.cuda.is_available()  # without one, accelerate refuses fp16
    if dtype == "fp16":  # partial sums of a product may be too large for fp16 where their sum is not
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    AcceleratorState._reset_state()  # an earlier run of this process may have had another type
    with _without(
        FSDP
    ):  # its plugin shards models that the Accelerator prepares; here they are sharded while they load
        accelerator = _accelerator(dtype, tracker, folder, on_card)
    any_rank(accelerator, False)  # the first exchange opens the connections
    mark(FREE)
    return accelerator


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Context in which an environment variable is not set."""
    before = os.environ.pop(name, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


def _accelerator(dtype: str, tracker: str, folder: Path, on_card: bool) -> Accelerator:
    return Accelerator(
        mixed_precision="bf16" if dtype == "bf16" else "fp16" if dtype == "fp16" and on_card else "no",
        cpu=not on_card,
        log_with=None if tracker == "none" else tracker,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
    )


@contextlib.contextmanager
def own_group() -> Iterator[None]:
    """Context at whose end the group of a run with one process is gone (`open_own_group`), so that others can start."""
    was_open = distributed.is_initialized()
    try:
        yield
    finally:
        if not was_open and distributed.is_initialized() and distributed.get_world_size() == 1:
            distributed.destroy_process_group()


def open_own_group() -> None:
    """A group of this process alone where there is none: sharded weights need one, also with one process."""
    if not distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any rank; costs nothing with one rank."""
    return any_rank_each(accelerator, [flag])[0]


def any_rank_each(accelerator: Accelerator, flags: Sequence[bool]) -> list[bool]:
    """`any_rank` of several flags, in one message."""
    if accelerator.num_processes == 1:
        return list(flags)
    with exchanging():
        own = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
        return [count > 0 for count in accelerator.reduce(own, "sum").tolist()]


def minimum(accelerator: Accelerator, numbers: list[int]) -> list[int]:
    """The minimum of each number over all ranks; all ranks must call it."""
    if accelerator.num_processes == 1:
        return numbers
    with exchanging():
        return accelerator.gather(torch.tensor([numbers], device=accelerator.device)).min(dim=0).values.tolist()


def of_main(accelerator: Accelerator, value: float) -> float:
    """The main process's value, on every rank."""
    own = torch.tensor(value if accelerator.is_main_process else 0.0, dtype=torch.float64, device=accelerator.device)
    with exchanging():
        return float(accelerator.reduce(own, "sum"))


def join(accelerator: Accelerator, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of all ranks, on every rank."""
    if accelerator.num_processes == 1:
        return values
    parts: list[Any] = [None] * accelerator.num_processes
    with exchanging():
        distributed.all_gather_object(parts, values)
    return {name: value for part in parts for name, value in part.items()}


def sum_over_ranks(accelerator: Accelerator, value: torch.Tensor) -> torch.Tensor:
    """The sum of every rank's tensor, which have the same shape."""
    with exchanging():
        return accelerator.reduce(value, "sum")


def wait_for_all(accelerator: Accelerator) -> None:
    """Returns once every rank has come here."""
    with exchanging():
        accelerator.wait_for_everyone()


class StopFlag:
    """code: exit code for the signal that was received, 0 if there was none."""

    code = 0


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Ctrl-C, SIGTERM and SIGHUP (a terminal was closed) set the flag, so that the loop stops where it is safe. A
    second signal ends the process at once."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    terminals = [handle for handle in (1, 2) if os.isatty(handle)]

    def set_flag(number: int, frame: FrameType | None) -> None:
        flag.code = 128 + number
        if own := watch():
            own.is_signalled = True
        _discard_output(terminals)
        signal.signal(number, before[number])

    before: dict[int, Any] = {
        n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    if before[signal.SIGHUP] is signal.SIG_IGN:  # started with nohup
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, set_flag)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _discard_output(terminals: list[int]) -> None:
    """Sends output for a closed terminal to /dev/null: an error while writing it would prevent saving."""
    for handle in terminals:
        if not os.isatty(handle):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, handle)
            os.close(null)
