"""Main memory that this process may still use, by the kernel and by all limits set for it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

VARIABLE = "SURI_FREE_MEMORY"  # bytes; a smaller limit than the machine's, for other programs or for tests
CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def free_memory_bytes(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """The smallest of: what the kernel calls available, what each cgroup above this process leaves, what `ulimit -v`
    and `ulimit -d` leave, and `SURI_FREE_MEMORY` in bytes. 0 where a limit is used up.

    Args:
        cgroup, proc: where these file systems are mounted.
    """
    limits = [*_machine(proc), *_cgroups(cgroup, proc), *_ulimits(proc)]
    if (text := os.environ.get(VARIABLE, "")).isdigit():
        limits.append(int(text))
    return max(0, min(limits, default=0))


def _machine(proc: Path) -> list[int]:
    fields = _fields(proc / "meminfo")
    return [fields["MemAvailable"]] if "MemAvailable" in fields else []


def _ulimits(proc: Path) -> list[int]:
    """`ulimit -v` counts mapped files, so what this process has mapped already is subtracted."""
    used = _fields(proc / "self" / "status")
    limits = []
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            limits.append(limit - used.get(name, 0))
    return limits


def _cgroups(root: Path, proc: Path) -> list[int]:
    """Of both versions of cgroups. Pages of files that can be dropped count as free."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            limit, used = (_number(place / name) for name in names)
            if limit is not None and used is not None:
                droppable = _fields(place / "memory.stat", 1)
                limits.append(limit - used + droppable.get("inactive_file", 0) + droppable.get("active_file", 0))
            if place == top:
                break
    return limits


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no such file or it holds a word such as `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _fields(path: Path, unit: int = 1024) -> dict[str, int]:
    """Name and number of each line, in bytes. unit: bytes of a number."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = [line.replace(":", " ").split() for line in lines]
    return {word[0]: int(word[1]) * unit for word in words if len(word) > 1 and word[1].isdigit()}
