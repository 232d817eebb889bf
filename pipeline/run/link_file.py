"""A second name of a file on the same disk, or a copy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_or_copy(path: Path, target: Path) -> None:
    """Puts `path` at `target`, atomically: a hard link if the disk has them. For files that never change in place."""
    temporary = target.with_name(f".{target.name}.aside.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copy2(path, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # a rename does nothing if both are names of one file
