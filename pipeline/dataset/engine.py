"""Where the work on chunks runs: in this process, in one process a core, or on a Ray cluster. The result is the same.

Results come back in the order of the chunks whatever finishes first, so that everything after depends on nothing but
the data.
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
AT_ONCE = 3  # items that are not worth starting processes for
_function: Callable[[Any], Any] | None = None


class Engine(Protocol):
    """Applies a picklable function to items, in order. slices: parts into which one large item is worth cutting."""

    slices: int

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """Many items, once."""

    def spread(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """A few items, again and again."""


def engine(name: str) -> Engine:
    """`local` or `ray`.

    Raises:
        UserError: ray is asked for and not installed.
    """
    if name == "ray":
        from pipeline.dataset.ray_engine import RayEngine

        return RayEngine()
    return Local()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Local:
    """A pool of processes for this one call; few items are done here."""

    slices = 1

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        rest = iter(items)
        first = list(itertools.islice(rest, AT_ONCE + 1))
        if len(first) <= AT_ONCE or cores() == 1:
            yield from map(function, itertools.chain(first, rest))
            return
        # spawn: a fork would copy the locks of whatever threads run here.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(cores(), context, initializer=_start, initargs=(function, os.getpid()))
        waiting: deque[Future[Out]] = deque()
        try:
            for item in itertools.chain(first, rest):
                with _no_interrupts():  # a process may be started by each of the first submits
                    waiting.append(pool.submit(_call, item))
                if len(waiting) > 2 * cores():  # enough to keep all busy, few enough to bound memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed for want of memory, or could not start in a script without the guard "
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
    """Ctrl-C waits, and a process born in here never sees it: it would die of it with a traceback while it imports."""
    resource_tracker.ensure_running()  # if it were started in here it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(function: Callable[[Any], Any], parent: int) -> None:
    """Prepares a worker: Ctrl-C is the parent's to handle, and a worker whose parent was killed ends by itself."""
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
