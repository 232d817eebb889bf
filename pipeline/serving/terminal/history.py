"""What was typed in earlier chats: one JSON string a line, in a file that only its user can read.

    SURI_CACHE/chat/history.jsonl    mode 600, at most `MOST` entries; an entry may have several lines

A history that cannot be read or written is left out: a chat needs none.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

from pipeline.run.hash_cache import cache_folder
from pipeline.run.json_file import json_or_none

MOST = 1000  # entries that are kept
LONGEST = 20_000  # characters of an entry; longer ones are not kept
LARGEST = 8 << 20  # bytes that are read


class History:
    """The entries of one file, oldest first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[str] = []
        with contextlib.suppress(OSError):
            self.entries = self._read()

    @classmethod
    def here(cls) -> History:
        """The history under SURI_CACHE."""
        return cls(cache_folder() / "chat" / "history.jsonl")

    def add(self, entry: str) -> None:
        """Appends an entry; one that repeats the latest is left out."""
        if not entry or len(entry) > LONGEST or self.entries[-1:] == [entry]:
            return
        self.entries.append(entry)
        with contextlib.suppress(OSError), os.fdopen(self._open(os.O_WRONLY | os.O_APPEND), "ab") as file:
            file.write(_line(entry))

    def _read(self) -> list[str]:
        """The newest entries. Where there are many older ones, the file is written anew without them."""
        with os.fdopen(self._open(os.O_RDWR), "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LARGEST))
            lines = file.read().splitlines()
            entries = [entry for entry in map(_entry, lines) if entry]
            if len(lines) > 2 * MOST or size > LARGEST:
                temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                with os.fdopen(os.open(temporary, flags, 0o600), "wb") as shorter:
                    shorter.writelines(map(_line, entries[-MOST:]))
                os.replace(temporary, self.path)
            return entries[-MOST:]

    def _open(self, flags: int) -> int:
        """A handle of the file, which is created when missing.

        Raises:
            OSError: it cannot be opened, or a link, a pipe or another user's file is in its place.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise OSError("not a plain file")
            os.fchmod(handle, 0o600)
        except OSError:
            os.close(handle)
            raise
        return handle


def _line(entry: str) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _entry(line: bytes) -> str:
    """The entry of a line; empty where the line is damaged."""
    value = json_or_none(line)
    return value if isinstance(value, str) and len(value) <= LONGEST else ""
