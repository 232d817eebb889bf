"""What may be removed: half-written folders of killed processes, and, when it is asked for, whole run folders."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.files import folder_size, readable_size
from pipeline.run.progress import say

PLACES = (".*.tmp", "*/.*.tmp", "*/*/.*.tmp")
YOUNG = 60  # seconds
# One of these makes a folder a run's.
MARKS = ("config.yaml", ".lock", "dataset/manifest.json", "checkpoints")


def left_over(root: Path) -> list[Path]:
    """`.NAME.tmp` in a run folder: what a killed process was writing, an export's as large as itself.

    Young files do not count: `make report` writes without the lock. Nothing is looked for behind a link.
    """
    found = []
    for path in (path for pattern in PLACES for path in root.glob(pattern)):
        with contextlib.suppress(OSError):
            young = not path.is_dir() and time.time() - path.lstat().st_mtime < YOUNG
            inside = path.relative_to(root).parents
            if not young and not any((root / parent).is_symlink() for parent in inside if parent.name):
                found.append(path)
    return found


def remove(path: Path) -> None:
    """A file, a link, or a folder with all that is in it; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def run_folders(root: Path) -> list[Path]:
    """Folders below RUNS that hold a run; a link to one is not followed."""
    there = sorted(root.iterdir()) if root.is_dir() else []
    return [p for p in there if p.is_dir() and not p.is_symlink() and any((p / mark).exists() for mark in MARKS)]


def show_runs(root: Path) -> list[Path]:
    """Prints what `make clean-runs` would remove, with sizes; returns the folders.

    Raises:
        UserError: there is nothing to remove.
    """
    found = run_folders(root)
    if not found:
        raise UserError("there are no runs here", str(root), "name another folder with RUNS=...")
    sizes = {path: folder_size(path) for path in found}
    for path, size in sizes.items():
        say(f"{readable_size(size):>10}  {path}")
    say(f"{readable_size(sum(sizes.values())):>10}  in {len(found)} runs")
    return found
