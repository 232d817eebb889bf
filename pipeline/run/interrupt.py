"""An answer to Ctrl-C within a second, whatever the main thread is doing.

Python runs signal handlers in the main thread between two of its instructions, and one instruction can be a backward
pass of many seconds. So a thread waits for the number of the signal, which the C-level handler writes into a pipe at
once, and prints what the program will finish. It does nothing else: what a signal does is up to its handler.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from pipeline.run.progress import warn

PATIENCE = 0.3  # seconds; where the command has ended by then, its last line is answer enough
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Answer = Callable[[], str]
_answer: Answer | None = None  # what is printed; None: nothing


def _default() -> str:
    return "stopping: results of finished stages are kept"


@contextlib.contextmanager
def answering(answer: Answer | None) -> Iterator[None]:
    """While the block runs, Ctrl-C is answered with another line; None: with none, as in a chat."""
    global _answer
    before, _answer = _answer, answer
    try:
        yield
    finally:
        _answer = before


@contextlib.contextmanager
def prompt_answers() -> Iterator[None]:
    """While the block runs, signals that have a handler are answered by a line on stderr."""
    if threading.current_thread() is not threading.main_thread() or int(os.environ.get("RANK", "0")):
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(read,), daemon=True, name="answers").start()
    try:
        with answering(_default):
            yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)  # ends the thread, which closes the other end


def _wait(pipe: int) -> None:
    answered = False
    while numbers := os.read(pipe, 64):
        if answered or not any(number in SIGNALS for number in numbers):
            continue
        time.sleep(PATIENCE)
        if _answer is not None:
            with contextlib.suppress(OSError, ValueError):
                warn(_answer())
            answered = True
    os.close(pipe)
