"""Ctrl-C, SIGTERM and SIGHUP become a flag that the loop looks at where it is safe to stop.

SIGHUP comes when a terminal is closed or a connection is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Flag:
    """`code` is the exit code that the signal asks for, 0 while there was none."""

    code = 0


@contextlib.contextmanager
def interruptible() -> Iterator[Flag]:
    """The first signal sets the flag; a second one ends the process at once."""
    flag = Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    terminals = [handle for handle in (1, 2) if os.isatty(handle)]

    def note(number: int, frame: FrameType | None) -> None:
        flag.code = 128 + number
        _close_gone(terminals)
        signal.signal(number, before[number])

    before: dict[int, Any] = {
        n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup: whoever started this wants it to go on
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, note)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close_gone(terminals: list[int]) -> None:
    """What would go to a terminal that is gone goes nowhere: writing there is an error, which would prevent saving."""
    for handle in terminals:
        if not os.isatty(handle):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, handle)
            os.close(nowhere)
