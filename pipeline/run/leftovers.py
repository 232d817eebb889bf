"""Locks a folder of results, and removes what killed processes left in it: files and folders that are half written."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.run.files import exclusive, recover

PATTERNS = (".*.tmp", "*/.*.tmp", "*/*/.*.tmp")
YOUNG = 60  # seconds


def half_written(root: Path) -> list[Path]:
    """`.NAME.tmp` files and folders in a run folder; those of an export are as large as the export itself.

    Young files are left out: `make report` writes without the lock. Links are not followed.
    """
    paths = []
    for path in (path for pattern in PATTERNS for path in root.glob(pattern)):
        with contextlib.suppress(OSError):
            young = not path.is_dir() and time.time() - path.lstat().st_mtime < YOUNG
            parents = path.relative_to(root).parents
            if not young and not any((root / parent).is_symlink() for parent in parents if parent.name):
                paths.append(path)
    return paths


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds a folder for this process; the kernel lets go of it however the process ends.

    Folders whose replacement was cut short between two renames are taken back first, and what is half written is
    removed.

    Raises:
        BlockingIOError: another live process holds it; its text is that process's number.
    """
    with exclusive(root / ".lock", wait=False):
        for old in root.glob(".*.old"):
            recover(old.with_name(old.name[1:-4]))
        for path in half_written(root):
            remove(path)
        yield


def remove_whole(folder: Path) -> None:
    """Removes a folder atomically: a crash leaves none with half of its files, and `half_written` finds the rest."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    folder.replace(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all that is in it; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
