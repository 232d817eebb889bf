"""A process with a terminal of its own, as a person sees it: keys go in, what is on the screen comes out."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Callable
from types import TracebackType

SECONDS = 60  # within which everything that is waited for must come
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what readline writes to move the cursor and switch modes
PASTED = "\x1b[200~{}\x1b[201~"  # how terminals mark what is pasted
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """Runs `work` in a forked process whose standard input and output are a terminal.

    Attributes:
        raw: everything that was printed. code: exit code of the process, after `close`.
    """

    def __init__(self, work: Callable[[], object], columns: int = 80, term: str = "xterm") -> None:
        self.raw, self.code, self._seen = "", -1, 0
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            _run(work, columns, term)
        fcntl.ioctl(self._handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def send(self, keys: str) -> None:
        """Types keys; `\\r` is Enter."""
        if CTRL_C in keys:  # between showing its prompt and waiting for a key, Python's readline takes no signal
            time.sleep(0.3)
        os.write(self._handle, keys.encode())

    def wait_for(self, text: str) -> str:
        """Waits until the text is printed; returns what came since the last call, without escape sequences."""
        end = time.monotonic() + SECONDS
        while text not in (shown := CONTROL.sub("", self.raw[self._seen :]).replace("\r", "")):
            if time.monotonic() > end or not self._read(0.2, end):
                raise AssertionError(f"{text!r} was not printed, but {shown!r}; before: {self.raw[-300:]!r}")
        self._seen = len(self.raw)
        return shown

    def close(self) -> str:
        """Waits for the end of the process; returns what came since the last call."""
        end = time.monotonic() + SECONDS
        while self._read(0.2, end) and time.monotonic() < end:
            pass
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code, self.pid = os.waitstatus_to_exitcode(status), 0
                break
            time.sleep(0.02)
        return CONTROL.sub("", self.raw[self._seen :]).replace("\r", "")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._handle)

    def _read(self, seconds: float, end: float) -> bool:
        """Reads what is there within so many seconds; False when the process has closed its terminal."""
        if not select.select([self._handle], [], [], seconds)[0]:
            return time.monotonic() < end
        try:
            data = os.read(self._handle, 1 << 16)
        except OSError:  # how Linux tells the end
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


def _run(work: Callable[[], object], columns: int, term: str) -> None:
    """In the forked process: never returns."""
    code = 1
    try:
        os.environ |= {"TERM": term, "COLUMNS": str(columns), "LINES": "24"}
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        result = work()
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
