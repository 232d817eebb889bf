"""Files that are either old or new, never half: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import UserError


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of plain data, independent of the order of keys."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with disk_errors(path.parent):
            with open(temporary, "w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def json_text(value: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """JSON that is always valid UTF-8: letters as they are, unless half a character (a surrogate) is among them."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=default)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, default=default)
    return text


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file that Suri wrote, or None when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def recover(folder: Path) -> None:
    """Takes back the old folder when a crash fell between the two renames of `replace_folder`."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists():
        if folder.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, folder)


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yields a new empty folder that takes the place of `folder` when the block ends without an error.

    Raises:
        UserError: the disk is full.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    make_folder(folder.parent)
    with disk_errors(folder):
        recover(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    try:
        with disk_errors(folder):
            yield temporary
            for path in [*sorted(temporary.rglob("*")), temporary]:
                if path.is_file() or path.is_dir():
                    _fsync(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    _fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def exclusive(path: Path, wait: bool) -> Iterator[TextIO]:
    """Holds a lock file for this process; the kernel lets go of it however the process ends.

    Raises:
        BlockingIOError: another process holds it and `wait` is false; its text is that process's number.
    """
    make_folder(path.parent)
    with disk_errors(path.parent):
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (closed by the `with` below)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(file.read().strip() or "?") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield file


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it.

    Raises:
        UserError: a file is in the way, or there are no rights to write.
    """
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError("cannot be made: a file is in the way", str(folder),
                            "choose another folder with RUNS=...") from None  # fmt: skip


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns a full disk or missing rights into a message. safetensors reports a full disk as its own error."""
    try:
        yield
    except Exception as error:
        code = getattr(error, "errno", None)
        said = str(error)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in said or "os error 28" in said:
            raise UserError(
                "no space left on the disk; what was there before is untouched", str(folder),
                "free some space or move the run folder with RUNS=/other/disk, then run the same command again",
            ) from None  # fmt: skip
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"cannot write or read: {os.strerror(code)}", str(getattr(error, "filename", None) or folder),
                "change its rights, or choose another run folder with RUNS=...",
            ) from None  # fmt: skip
        raise


def need_space(folder: Path, needed: int, what: str) -> None:
    """Stops before the work when `needed` bytes are not free where `folder` will be.

    Raises:
        UserError: with both numbers.
    """
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{what} needs {_size(needed)} of disk and {_size(free)} are free", str(folder),
            "free some space or move the run folder with RUNS=/other/disk",
        )  # fmt: skip


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
