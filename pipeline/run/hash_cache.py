"""Hashes of input files, kept under SURI_CACHE by path, size and times: asking again costs a `stat`, not a read.

`sha256_file` remembers a hash for as long as the process runs; these outlive it. Each is a small file of its own, so
that concurrent processes need no common file, and one that is damaged is only computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import (
    SETTLED,
    byte_bar,
    exclusive,
    file_state,
    read_json,
    readable_size,
    sha256_file,
    sha256_json,
)  # fmt: skip
from pipeline.run.object_store import DataFile, Object, endpoint
from pipeline.run.progress import say

LARGE = 1 << 28  # bytes from which processes wait for each other instead of reading the same file at once
ANNOUNCED = 1 << 30  # bytes from which the user is told that a file is read
HASH = re.compile(r"[0-9a-f]{64}")


def cache_folder() -> Path:
    """Where results are stored that any run may use again: SURI_CACHE, default `.cache`."""
    return Path(os.environ.get("SURI_CACHE", ".cache"))


def cached_sha256(path: DataFile) -> str:
    """Hex sha256 of a file's bytes; a file that has not changed is not read again. An object has changed if its size or
    ETag has.

    Raises:
        OSError: it cannot be read.
    """
    return _cached_of_object(path) if isinstance(path, Object) else _cached(path, "bytes", sha256_file)


def _cached_of_object(there: Object) -> str:
    where = f"object:{endpoint()}:{there.address}"
    entry, stamp = _entry(where), [there.size, there.etag]
    if there.etag and (known := _stored(entry, where, stamp)):
        return known
    with byte_bar(there.size, f"hashing {there.name}") as progress:
        digest = there.sha256(progress.update)
    _store(entry, {"path": where, "stamp": stamp, "sha256": digest})
    return digest


def cached_json_sha256(path: Path, ignored: tuple[str, ...] = ()) -> str:
    """Hex sha256 of the values in a JSON file: layout, order of keys and 1 against 1.0 make no difference.

    A file that is no JSON is hashed by its bytes.

    Args:
        ignored: keys of the outermost object that are left out.
    """

    def compute(path: Path) -> str:
        data = path.read_bytes()
        try:
            value: Any = json.loads(data.decode("utf-8-sig"), parse_int=float)
            if isinstance(value, dict):
                value = {key: inner for key, inner in value.items() if key not in ignored}
            return sha256_json(value)
        except (ValueError, RecursionError):
            return hashlib.sha256(data).hexdigest()

    return _cached(path, f"json without {list(ignored)}", compute)


def _cached(path: Path, what: str, compute: Callable[[Path], str]) -> str:
    real = Path(os.path.realpath(path))
    size = real.stat().st_size
    entry = _entry(f"{what}:{real}")
    if known := _stored(entry, str(real), _stamp(real)):
        return known
    with contextlib.ExitStack() as stack:
        if size >= LARGE:
            with contextlib.suppress(UserError, OSError):  # without the lock it only takes longer
                stack.enter_context(exclusive(entry.with_suffix(".lock"), wait=True))
            if known := _stored(entry, str(real), _stamp(real)):  # by the process that held the lock
                return known
        if size >= ANNOUNCED:
            say(f"hashing {real.name} ({readable_size(size)}); this is done once")
        started, before = time.time_ns(), _stamp(real)
        digest = compute(real)
        if before == _stamp(real) and max(before[1:]) < started - SETTLED:
            _store(entry, {"path": str(real), "stamp": before, "sha256": digest})
        return digest


def _stamp(path: Path) -> list[int]:
    """Size and both times in nanoseconds; no inode, since a file keeps its hash when its disk is mounted anew."""
    return list(file_state(path)[2:])


def _entry(name: str) -> Path:
    """The file that holds the hash of what has this name."""
    return cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.json"


def _stored(entry: Path, path: str, stamp: list[Any]) -> str:
    """The stored hash of a file that has not changed since; empty when there is none."""
    known = read_json(entry)
    if not isinstance(known, dict) or known.pop("check", None) != sha256_json(known):
        return ""
    digest = known.get("sha256")
    same = known.get("path") == path and known.get("stamp") == stamp
    return digest if same and isinstance(digest, str) and HASH.fullmatch(digest) else ""


def _store(entry: Path, known: dict[str, Any]) -> None:
    """Writes an entry in one step; does nothing where the cache cannot be written."""
    temporary = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**known, "check": sha256_json(known)}, ensure_ascii=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, entry)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
