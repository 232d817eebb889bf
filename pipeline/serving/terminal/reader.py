"""Reads what a user types, or the lines of a pipe.

At a terminal one entry may have several lines: a line that ends with a backslash goes on in the next, and a pasted
block is one entry. Terminals mark what is pasted (bracketed paste), and GNU readline then puts its line breaks into the
line. Where there is no such readline, lines that are there at once are taken for pasted.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Protocol

from pipeline.run import encoding
from pipeline.run.errors import UserError
from pipeline.serving.terminal.history import History

PROMPT, MORE = "> ", ". "
PASTE_PAUSE = 0.02  # seconds in which the next line of a pasted block is there

Completer = Callable[[str], list[str]]


class Reader(Protocol):
    """is_terminal: a person types."""

    is_terminal: bool

    def read(self) -> str | None:
        """The next entry without white space around it; None at the end.

        Raises:
            UserError: it is not UTF-8.
            KeyboardInterrupt: Ctrl-C.
        """


class PipeReader:
    """Each line of standard input is an entry."""

    is_terminal = False

    def __init__(self) -> None:
        self._lines: Iterator[str] = encoding.lines(sys.stdin)

    def read(self) -> str | None:
        line = next(self._lines, None)
        return None if line is None else line.strip()


class TerminalReader:
    """Standard input is a terminal.

    Args:
        complete: the words that may stand at the end of a line, for the Tab key.
    """

    is_terminal = True

    def __init__(self, history: History, complete: Completer) -> None:
        self.history = history
        self._readline: ModuleType | None = None
        with contextlib.suppress(ImportError):
            import readline

            self._readline = readline
            self._set_up(readline, complete)
        is_gnu = self._readline is not None and "libedit" not in (self._readline.__doc__ or "")
        # `input` uses readline only where it prints to a terminal.
        self._marks_pastes = is_gnu and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def read(self) -> str | None:
        lines: list[str] = []
        print()
        try:
            lines += self._line(PROMPT)
            while _goes_on(lines[-1]):
                lines[-1] = lines[-1][:-1]
                lines += self._line(MORE)
        except EOFError:
            if not lines:
                return None
            print()
        entry = "\n".join(lines).strip()
        try:
            entry.encode()
        except UnicodeEncodeError:
            raise UserError("not UTF-8 text", "", "set the terminal to UTF-8") from None
        if entry and self._readline is not None:
            self._readline.add_history(entry)
        self.history.add(entry)
        return entry

    def _line(self, prompt: str) -> list[str]:
        """The next line, or the lines of a pasted block.

        Raises:
            EOFError: Ctrl-D.
        """
        typed_ahead = _is_waiting(0)
        try:
            lines = input(prompt).split("\n")
            while not self._marks_pastes and not typed_ahead and _is_waiting(PASTE_PAUSE):
                lines.append(input())
        except UnicodeDecodeError as error:
            raise UserError(encoding.not_utf8(error.object), "", "set the terminal to UTF-8") from None
        return lines

    def _set_up(self, readline: ModuleType, complete: Completer) -> None:
        readline.set_auto_history(False)  # entries are added whole
        for entry in self.history.entries:
            readline.add_history(entry)

        def matches(word: str, number: int) -> str | None:
            found = complete(readline.get_line_buffer()[: readline.get_endidx()])
            return dict(enumerate(found)).get(number)

        readline.set_completer_delims(" ")
        readline.set_completer(matches)
        if "libedit" in (readline.__doc__ or ""):
            readline.parse_and_bind("bind ^I rl_complete")
        else:
            readline.parse_and_bind("tab: complete")
            readline.parse_and_bind("set enable-bracketed-paste on")  # Python switches it off


def _goes_on(line: str) -> bool:
    """Whether a line ends with a single backslash."""
    return line.endswith("\\") and not line.endswith("\\\\")


def _is_waiting(seconds: float) -> bool:
    """Whether standard input has something to read within so many seconds."""
    try:
        return bool(select.select([sys.stdin], [], [], seconds)[0])
    except (OSError, ValueError):
        return False
