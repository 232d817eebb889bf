"""What killed processes leave in a run folder: half-written files and folders, and folders that were being replaced."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from pipeline.run.files import recover

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


def clean_up(root: Path) -> None:
    """Takes back folders whose replacement was cut short between two renames, and removes what is half written.

    Only for a process that holds the run folder's lock.
    """
    for old in root.glob(".*.old"):
        recover(old.with_name(old.name[1:-4]))
    for path in half_written(root):
        remove(path)


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all that is in it; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
