"""What a command prints: lines on stdout, and on stderr one line of progress that is redrawn in place.

In a log file (stderr is no terminal) progress is a whole line every twenty seconds. A thread redraws it, so that a
phase without steps, such as loading a model, shows that it lives. Of nested bars and phases the innermost is drawn.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any

from pipeline.run.terminal import Styled, printable, safe
from pipeline.run.width import HANGING, WIDTH, clipped, columns, wrapped

BAR_AFTER = 0.5  # seconds until a bar is shown, so that quick work stays quiet
PHASE_AFTER = 3.0  # and a phase without steps
LIVE_EVERY = 0.3  # seconds between two drawings on a terminal
LOG_EVERY = 20.0  # and between two lines in a log file
WIDEST_BAR, NARROWEST_BAR = 24, 8  # columns
SPINNER = "|/-\\"


class Bar:
    """Progress of one piece of work: with a total a bar, without it a count, and for a phase the time alone.

    Attributes:
        n, total: steps done, and in all (None: unknown); `total` may be corrected while the work goes on.
        note: text at the end of the line, such as the loss.
    """

    def __init__(
        self, items: Iterable[Any] | None, total: int | None, what: str, unit: str, initial: int, is_phase: bool
    ) -> None:
        self.items, self.total, self.what, self.unit = items, total, safe(what), unit
        self.n = self.initial = initial
        self.note, self.is_phase = "", is_phase
        self.started = self.drawn_at = time.monotonic()
        self.is_shown = self.is_open = False

    def update(self, count: int = 1) -> None:
        """Counts steps that are done."""
        self.n += count
        _screen.draw(self)

    def open(self) -> Bar:
        """Begins to be shown."""
        self.is_open = True
        _screen.push(self)
        return self

    def close(self) -> None:
        """Leaves the last state as a line where it was shown."""
        if self.is_open:
            self.is_open = False
            _screen.pop(self)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.items or ():
                yield item
                self.update()

    def line(self, live: bool, width: int = WIDTH) -> str:
        """The state as text of at most `width` columns; `live`: with a bar or a spinner, for a terminal."""
        seconds = time.monotonic() - self.started
        if self.is_phase:
            spin = f"{SPINNER[int(seconds / LIVE_EVERY) % len(SPINNER)]} " if live else ""
            return clipped(f"{spin}{self.what}: {readable_time(seconds)}", width)
        done = self.n - self.initial
        parts = [f"{self._count()}, {readable_time(seconds)}"]
        if self.total and done and self.n < self.total:
            parts.append(f"{readable_time(seconds / done * (self.total - self.n))} left")
        if self.note:
            parts.append(self.note)
        text = ", ".join(parts)
        head = self.what + (f" {min(1.0, self.n / self.total):4.0%}" if self.total else "")
        if self.note and columns(f"{head}: {text}") > width:  # the note says more than the time that has passed
            text = ", ".join([self._count(), *parts[1:]])
        room = min(WIDEST_BAR, width - columns(head) - columns(text) - 4)
        if not live or not self.total or room < NARROWEST_BAR:
            return clipped(f"{head}: {text}", width)
        filled = round(room * min(1.0, self.n / self.total))
        return f"{head} |{'#' * filled}{' ' * (room - filled)}| {text}"

    def _count(self) -> str:
        if self.unit == "B":
            of = f" of {self.total / 1e6:,.0f}" if self.total else ""
            return f"{self.n / 1e6:,.0f}{of} MB"
        of = f" of {self.total:,}" if self.total else ""
        return f"{self.n:,}{of} {self.unit}{'' if (self.total or self.n) == 1 else 's'}"


class _Screen:
    """The line of progress, shared by all bars of the process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts anew; a forked process must not wait for a lock that the other one held."""
        self.lock = threading.RLock()
        self.stack: list[Bar] = []
        self.shown = 0  # columns of the line that is on the terminal
        self.thread: threading.Thread | None = None
        self.is_silent = False

    def push(self, bar: Bar) -> None:
        with self.lock:
            self.stack.append(bar)
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._beat, daemon=True, name="progress")
                self.thread.start()

    def pop(self, bar: Bar) -> None:
        with self.lock:
            if bar not in self.stack:
                return
            is_outermost = self.stack[0] is bar
            self.stack.remove(bar)
            self.clear()
            if bar.is_shown and not bar.is_phase and (is_outermost or not _is_live()):
                _write(bar.line(_is_live()) + "\n")

    def draw(self, bar: Bar) -> None:
        """Draws the innermost bar, not more often than is useful."""
        now, live = time.monotonic(), _is_live()
        if not self.stack or self.stack[-1] is not bar or now - bar.drawn_at < (LIVE_EVERY if live else LOG_EVERY):
            return
        if now - bar.started < (PHASE_AFTER if bar.is_phase else BAR_AFTER):
            return
        with self.lock:
            bar.drawn_at, bar.is_shown = now, True
            if live:
                line = bar.line(True, min(WIDTH, shutil.get_terminal_size((80, 24)).columns - 1))
                _write("\r" + line + " " * (self.shown - columns(line)))
                self.shown = columns(line)
            else:
                _write(bar.line(False) + "\n")

    def clear(self) -> None:
        """Removes the line from the terminal; it is drawn again by the next step or the thread."""
        if self.shown:
            _write("\r" + " " * self.shown + "\r")
            self.shown = 0

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(LIVE_EVERY):
            with self.lock:
                if not self.stack:
                    self.thread = None
                    return
                self.draw(self.stack[-1])


def _is_live() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def _write(text: str) -> None:
    """Onto stderr; a terminal that is gone must not stop the work."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


def readable_time(seconds: float) -> str:
    """Such as `42 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_screen = _Screen()
os.register_at_fork(after_in_child=_screen.forget)


def bar(
    items: Iterable[Any] | None = None, *, total: int | None = None, what: str, unit: str = "row", initial: int = 0,
    disable: bool = False,
) -> Bar:  # fmt: skip
    """A bar that counts `items`, or what `update` is told.

    Args:
        total: steps in all; None: of `items` where they have a length, else unknown. unit: of a step; `B`: bytes.
        initial: steps that were done before. disable: whether it only counts and is not shown.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    made = Bar(items, total, what, unit, initial, is_phase=False)
    return made if disable or _screen.is_silent else made.open()


def working(what: str, disable: bool = False) -> Bar:
    """`with working("loading"):` shows how long a phase without steps has taken, from three seconds on."""
    made = Bar(None, None, what, "", 0, is_phase=True)
    return made if disable or _screen.is_silent else made.open()


def say(*words: object, hanging: int = HANGING) -> None:
    """Lines for the user, on stdout, above any bar, at most 78 columns wide.

    No escape sequence reaches the terminal but `Styled` ones, which are not broken into lines either.

    Args:
        hanging: columns by which the rest of a broken line is indented, more than the line itself.
    """
    if _screen.is_silent:
        return
    text = " ".join(printable(word) for word in words)
    _print(text if any(isinstance(word, Styled) for word in words) else wrapped(text, hanging), sys.stdout)


@contextlib.contextmanager
def silent(wanted: bool = True) -> Iterator[None]:
    """Context without bars and lines on stdout: of ranks that do the same work as the one that tells of it."""
    before, _screen.is_silent = _screen.is_silent, _screen.is_silent or wanted
    try:
        yield
    finally:
        _screen.is_silent = before


def warn(text: str) -> None:
    """Lines for the user on stderr, above any bar: answers to signals, and the error that ends a command.

    What follows `where:` and `fix:` of an error goes on under its beginning.
    """
    labelled = ("  where: ", "  fix:   ")
    lines = (wrapped(line, 7 if line.startswith(labelled) else HANGING) for line in safe(text).split("\n"))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the terminal may be gone
        _print("\n".join(lines), sys.stderr)


def _print(text: str, stream: Any) -> None:
    with _screen.lock:
        _screen.clear()
        stream.write(text + "\n")
        stream.flush()
