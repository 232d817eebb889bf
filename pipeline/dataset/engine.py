"""Where chunks are processed: in this process, in one process for each core, or on a Ray cluster.

Results come in the order of the chunks, so that the result depends on the data only.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any, Protocol, TypeVar

from pipeline.run.errors import UserError

In = TypeVar("In")
Out = TypeVar("Out")
FEW_ITEMS = 3  # not worth starting processes for
_function: Callable[[Any], Any] | None = None


class Engine(Protocol):
    """Applies a picklable function to items, in order. slices: pieces into which a large item should be cut."""

    slices: int

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """Many items, once."""

    def spread(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """A few items, many times."""


def engine(name: str) -> Engine:
    """`local` or `ray`.

    Raises:
        UserError: ray is requested but not installed.
    """
    if name == "ray":
        from pipeline.dataset.ray_engine import RayEngine

        return RayEngine()
    return Local()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Local:
    """A pool of processes for one call; few items are processed in this process."""

    slices = 1

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        rest = iter(items)
        first = list(itertools.islice(rest, FEW_ITEMS + 1))
        if len(first) <= FEW_ITEMS or cores() == 1:
            yield from map(function, itertools.chain(first, rest))
            return
        # spawn: a fork would copy the locks of the running threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(cores(), context, initializer=_start, initargs=(function, os.getpid()))
        waiting: deque[Future[Out]] = deque()
        try:
            for item in itertools.chain(first, rest):
                with _no_interrupts():  # each of the first submits may start a process
                    waiting.append(pool.submit(_call, item))
                if len(waiting) > 2 * cores():  # enough to keep all cores busy, few enough to bound the memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process ran out of memory and was killed, or could not start in a script without the guard "
                '`if __name__ == "__main__":`', "data",
                "free some memory or split the source into smaller files; in a script of your own, put that guard "
                "above the call",
            ) from None  # fmt: skip
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def spread(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        return map(function, items)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Delays Ctrl-C; a process started in here never receives it (it would print a traceback while it imports)."""
    resource_tracker.ensure_running()  # started in here, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(function: Callable[[Any], Any], parent: int) -> None:
    """Prepares a worker: it ignores Ctrl-C, which the parent handles, and ends if its parent was killed."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    sys.stdin.close()


def _call(item: Any) -> Any:
    assert _function is not None
    return _function(item)
