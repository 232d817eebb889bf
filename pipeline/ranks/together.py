"""The processes of a run as one: they meet, watch each other, and end with one message when one of them fails."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.ranks.board import open_board
from pipeline.ranks.meeting import PATIENCE, meet
from pipeline.ranks.place import Place
from pipeline.ranks.watch import FREE, NETWORK, Limits, Watch, watching
from pipeline.run.errors import Interrupted, UserError, one_line

WAIT = 300.0  # seconds for all ranks to come
# What libraries say when another rank has gone, in errors that have no class of their own.
BROKEN = ("connection closed by peer", "connection reset by peer", "broken pipe", "nccl", "gloo", "socket")
SILENCE = 1.0  # seconds in which the first rank of a host says what is wrong, before a launcher ends all of them
SPOKEN = 2  # exit code of a rank whose failure was told


@contextlib.contextmanager
def together(place: Place, facts: Callable[[], Mapping[str, str]], folder: Path) -> Iterator[None]:
    """The block runs in all ranks, once they have met.

    Args:
        facts: that must be the same on all ranks; a `UserError` of it on any rank refuses all. folder: of the run.

    An error of the block ends the process with exit code 2: it is printed with the number and host of this rank, unless
    another rank of this host has already said what is wrong.

    Raises:
        UserError: the ranks did not meet, or do not fit. SystemExit: the first rank of this host says so.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a rank that ends makes the others' stores print stacks
    text = os.environ.get(PATIENCE, "")
    patience = float(text) if text.isdecimal() and int(text) else WAIT
    board = open_board(place, patience)
    try:
        own, refusal = _facts_or_refusal(facts)
        board, hosts = meet(board, place, own, folder, patience, refusal)
    except UserError:
        if place.local:
            time.sleep(SILENCE)
            raise SystemExit(SPOKEN) from None  # the first rank of this host says it
        raise
    with watching(board, place, hosts, Limits.from_environment()) as watch:
        try:
            yield
            watch.stop()
        except Interrupted as error:  # all ranks stop after the same step
            watch.stop()
            if place.rank:
                raise SystemExit(error.code) from None
            raise
        except (UserError, Exception) as error:
            watch.mark(FREE)
            failure = _own_failure(error, place, watch)
            is_first = watch.fail(failure.what, failure.fix or "see above")
            if is_first and not isinstance(error, UserError) and not _is_memory(error):
                traceback.print_exc()
            watch.leave(str(failure) if is_first else "")


def _facts_or_refusal(facts: Callable[[], Mapping[str, str]]) -> tuple[Mapping[str, str], UserError | None]:
    """What this rank notes for the others: its facts, or why it cannot take part."""
    try:
        return facts(), None
    except UserError as error:
        return {}, error


def _own_failure(error: Exception, place: Place, watch: Watch) -> UserError:
    """An error of this rank as what its message says.

    Raises:
        SystemExit: it only follows from the end of another rank.
    """
    if isinstance(error, UserError):
        return UserError(f"{place}: {error.what}", error.where, error.fix)
    if _is_memory(error):
        fix = "set train.checkpointing=block, model.quantize=nf4, or lower train.micro_tokens"
        return UserError(f"{place}: out of memory: {one_line(error, 160)}", "train", fix)
    if _is_exchange(error):
        if watch.wait_for_failure(watch.limits.dead + 5):
            raise SystemExit(SPOKEN)
        return UserError(f"{place}: the exchange with the other ranks failed: {one_line(error, 160)}", "train", NETWORK)
    return UserError(f"{place}: {type(error).__name__}: {one_line(error)}", "train", "see the lines above")


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _is_exchange(error: Exception) -> bool:
    """Whether an error comes from torch.distributed: some of its classes are plain RuntimeErrors."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    return "DistError" in names or (isinstance(error, RuntimeError) and any(word in text for word in BROKEN))
