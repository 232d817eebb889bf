"""Files that are either old or new, never half: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.run.errors import UserError
from pipeline.run.progress import bar

LARGE = 1 << 28  # bytes from which on hashing a file draws a bar
BLOCK = 1 << 22  # bytes that are hashed at once
# Nanoseconds. A file that changed this short a time ago can change again without another time: its hash is not kept.
SETTLED = 2_000_000_000
State = tuple[int, int, int, int, int]
_hashes: dict[State, str] = {}  # of this process, by `file_state`


def file_state(path: Path) -> State:
    """Device, inode, size in bytes, and the times of modification and change in nanoseconds.

    A file whose state is the same holds the same bytes: a write sets the time of change (ctime), which no program can
    set back.
    """
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def sha256_file(path: Path, progress: Callable[[int], Any] | None = None) -> str:
    """Hex digest of a file's bytes; a process reads a file once, as long as its state is the same.

    Args:
        progress: is called with the number of bytes of each block; without it a large file draws its own bar.
    """
    state = file_state(path)
    size = state[2]
    if state in _hashes:
        if progress:
            progress(size)
        return _hashes[state]
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        if progress is None and size >= LARGE:
            progress = stack.enter_context(byte_bar(size, f"hashing {path.name}")).update
        file = stack.enter_context(open(path, "rb", buffering=0))
        while block := file.read(BLOCK):
            digest.update(block)
            if progress:
                progress(len(block))
    if file_state(path) == state and time.time_ns() - state[4] > SETTLED:
        _hashes[state] = digest.hexdigest()
    return digest.hexdigest()


def byte_bar(total: int, what: str) -> Any:
    """A progress bar that counts bytes."""
    return bar(total=total, what=what, unit="B")


def sha256_json(value: Any) -> str:
    """Hex digest of plain data, independent of the order of keys."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Plain data with a hash of itself under `sha256`; the same again for data whose seal is right."""
    rest = json.loads(json.dumps({name: part for name, part in value.items() if name != "sha256"}))
    return {**rest, "sha256": sha256_json(rest)}


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
        with contextlib.suppress(OSError):  # a disk that takes no writes refuses this too
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


def write_json_lines(path: Path, rows: Iterable[Any], default: Callable[[Any], Any] | None = None) -> None:
    """Replaces `path` by a JSONL file. default: converts values that JSON does not have."""
    write_text(path, "".join(json_text(row, default=default) + "\n" for row in rows))


def json_lines(path: Path) -> Iterator[Any]:
    """The rows of a JSONL file that Suri wrote, read one by one."""
    with open(path, encoding="utf-8", errors="surrogatepass") as file:
        yield from map(json.loads, file)


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


def temporary_of(folder: Path) -> Path:
    """The folder that `replace_folder` yields."""
    return folder.with_name(f".{folder.name}.tmp")


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yields a new empty folder that takes the place of `folder` when the block ends without an error.

    Raises:
        UserError: the disk is full.
    """
    temporary = temporary_of(folder)
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
                    fsync_path(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    fsync_path(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def exclusive(path: Path, wait: bool) -> Iterator[TextIO]:
    """Holds a lock file for this process; the kernel lets go of it however the process ends.

    Raises:
        BlockingIOError: another process holds it and `wait` is false; its text is that process's number.
        UserError: a folder or a link is in its place (nothing is written through it), or it cannot be written.
    """
    make_folder(path.parent)
    with disk_errors(path.parent):
        handle = _open_lock(path)
    with open(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BlockingIOError(file.read().strip() or "?") from None
        with disk_errors(path.parent):
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
        yield file


def _open_lock(path: Path) -> int:
    """A handle of the lock file, a plain file with one name; it is created when missing."""
    # Without O_NONBLOCK a pipe of that name would be waited for.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fix = "remove it, then run the same command again"
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            what = "the lock is not a plain file: a link or a folder is in its place"
            raise UserError(what, str(path), fix) from None
        raise
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(handle)
        raise UserError("the lock is not a plain file of its own: another file would be overwritten", str(path), fix)
    return handle


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it.

    Raises:
        UserError: a file is in the way, or there are no rights to write.
    """
    fix = "choose another folder with RUNS=..."
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError("the folder cannot be created: a file is in the way", str(folder), fix) from None
        except FileNotFoundError:  # such as below /proc
            raise UserError(
                "the folder cannot be created: this file system does not allow it", str(folder), fix
            ) from None


# Errors that a user can fix; any other error of the disk keeps its traceback.
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns a full disk, missing rights or an impossible name into a `UserError`; safetensors reports a full disk as an
    error of its own."""
    try:
        yield
    except Exception as error:
        code = getattr(error, "errno", None)
        text = str(error)
        if code in FULL or "No space left" in text or "os error 28" in text:
            raise UserError(
                "no space left on the disk; what was there before is untouched", str(folder),
                "free some space or move the run folder with RUNS=/other/disk, then run the same command again",
            ) from None  # fmt: skip
        if code in REFUSED:
            where = str(getattr(error, "filename", None) or folder)
            fix = "change its rights, or choose another run folder with RUNS=..."
            if code == errno.ENAMETOOLONG:
                where, fix = where[:100] + "...", "give it a shorter name"
            raise UserError(f"cannot write or read: {os.strerror(code)}", where, fix) from None
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
            f"{what} needs {readable_size(needed)} of disk and {readable_size(free)} are free", str(folder),
            "free some space or move the run folder with RUNS=/other/disk",
        )  # fmt: skip


def readable_size(count: float) -> str:
    """Bytes as a person reads them: in GB, MB or kB."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder and those below it; a link counts as the link that it is."""
    return sum(Path(top, name).lstat().st_size for top, _, names in os.walk(folder) for name in names)


def fsync_path(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
