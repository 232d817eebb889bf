"""A conversation as rows of JSONL that the data stage reads: `/save FILE`.

    chat template       {"messages": [{"role": "system", ...}, {"role": "user", ...}, {"role": "assistant", ...}]}
    single questions    {"instruction": ..., "input": ..., "output": ...}, a row for each

A new file is written; rows are added to one that already has rows of JSONL; every other file is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.run.append_file import AppendFile
from pipeline.run.errors import UserError
from pipeline.run.files import json_text
from pipeline.run.json_file import json_or_none
from pipeline.serving.terminal.session import ChatSession

TAIL = 1 << 22  # bytes at the end of a file in which its last line must begin
FIX = "name another file"


def rows_of(session: ChatSession) -> list[dict[str, Any]]:
    """The rows of a conversation; empty where there is no answer."""
    if not session.exchanges:
        return []
    if session.remembers:
        return [{"messages": session.messages()}]
    before = f"{session.system}\n\n" if session.system else ""
    return [{"instruction": before + e.question, "input": e.given, "output": e.answer} for e in session.exchanges]


def path_of(name: str) -> Path:
    """The file that a user names; `~` is the home folder.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name[:200]} cannot be written: {error}", "", FIX) from None


def save(rows: list[dict[str, Any]], path: Path) -> bool:
    """Writes rows to a file; returns whether they were added to rows that were there.

    Raises:
        UserError: the folder is missing, something other than JSONL is in the place of the file, or it cannot be
            written. Nothing of the rows is in the file then.
    """
    try:
        is_new = not os.path.lexists(path)
        if is_new and not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent}", str(path), "make it, or " + FIX)
        file = AppendFile(path)
        if not is_new:
            file.size = file.end = _size_of_rows(path)
        separator = b"" if is_new or _ends_with_line_break(path) else b"\n"
        file.append(separator + "".join(json_text(row) + "\n" for row in rows).encode())
    except (OSError, ValueError) as error:  # the latter: zero bytes in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{str(path)[:200]} cannot be written: {reason}", "", FIX) from None
    return not is_new


def _size_of_rows(path: Path) -> int:
    """Bytes of a file with rows of JSONL.

    Raises:
        UserError: it has none.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file", "", FIX)
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - TAIL))
        lines = [line for line in file.read().splitlines() if line.strip()]
    is_row = not lines or isinstance(json_or_none(lines[-1]), dict)
    if not is_row or (lines and lines[0].lstrip()[:1] != b"{" and size <= TAIL):
        raise UserError(f"{path} exists and has no rows of JSONL; it stays as it is", "", FIX)
    return size


def _ends_with_line_break(path: Path) -> bool:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")
