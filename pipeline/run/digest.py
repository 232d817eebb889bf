"""Hashes of input files, kept under SURI_CACHE by path, size and times: asking again costs a `stat`, not a read.

Each hash is a small file of its own, so that concurrent processes need no common file, and one that is damaged is only
computed again.
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
from pipeline.run.files import exclusive, read_json, sha256_file, sha256_json
from pipeline.run.progress import say

LARGE = 1 << 28  # bytes from which processes wait for each other instead of reading the same file at once
SAID = 1 << 30  # bytes from which the user is told
# Seconds. A file changed this short a time ago could change again without another time: its hash is not kept.
YOUNG = 2.0
HASH = re.compile(r"[0-9a-f]{64}")


def cache() -> Path:
    """Where results lie that any run may use again: SURI_CACHE, default `.cache`."""
    return Path(os.environ.get("SURI_CACHE", ".cache"))


def digest(path: Path, again: bool = False) -> str:
    """Hex sha256 of a file's bytes. again: read it whatever is kept.

    Raises:
        OSError: it cannot be read.
    """
    return _kept(path, "bytes", sha256_file, again)


def json_digest(path: Path, ignored: tuple[str, ...] = (), again: bool = False) -> str:
    """Hex sha256 of what a JSON file says: layout, order of keys and 1 against 1.0 make no difference.

    Args:
        ignored: keys of the outermost object that are left out.

    A file that is no JSON goes by its bytes.
    """

    def of(path: Path) -> str:
        data = path.read_bytes()
        try:
            value: Any = json.loads(data.decode("utf-8-sig"), parse_int=float)
            if isinstance(value, dict):
                value = {key: inner for key, inner in value.items() if key not in ignored}
            return sha256_json(value)
        except (ValueError, RecursionError):
            return hashlib.sha256(data).hexdigest()

    return _kept(path, f"json without {list(ignored)}", of, again)


def _kept(path: Path, what: str, compute: Callable[[Path], str], again: bool) -> str:
    real = os.path.realpath(path)
    size = os.stat(real).st_size
    entry = cache() / "hashes" / f"{hashlib.sha256(os.fsencode(f'{what}:{real}')).hexdigest()[:32]}.json"
    if not again and (known := _look(entry, real)):
        return known
    with contextlib.ExitStack() as held:
        if size >= LARGE:
            with contextlib.suppress(UserError, OSError):  # without the lock it only takes longer
                held.enter_context(exclusive(entry.with_suffix(".lock"), wait=True))
            if not again and (known := _look(entry, real)):
                return known
        if size >= SAID:
            say(f"reading {size / 1e9:.1f} GB to know {Path(real).name} again")
        started, before = time.time(), _stamp(real)
        found = compute(Path(real))
        if before == _stamp(real) and max(before[1:]) < (started - YOUNG) * 1e9:
            _keep(entry, {"path": real, "stamp": before, "sha256": found})
        return found


def _stamp(path: str) -> list[int]:
    """Size and times. The second time is the kernel's own: it changes also where a program sets the first one back."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _look(entry: Path, path: str) -> str:
    """The kept hash of a file that is as it was then; else empty."""
    known = read_json(entry)
    if not isinstance(known, dict) or known.pop("check", None) != sha256_json(known):
        return ""
    found = known.get("sha256")
    same = known.get("path") == path and known.get("stamp") == _stamp(path)
    return found if same and isinstance(found, str) and HASH.fullmatch(found) else ""


def _keep(entry: Path, known: dict[str, Any]) -> None:
    """In one step; not at all where the cache cannot be written."""
    temporary = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**known, "check": sha256_json(known)}, ensure_ascii=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, entry)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
