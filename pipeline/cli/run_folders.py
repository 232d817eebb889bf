"""The commands that remove something: clean (what killed commands left half-written) and clean-runs."""

from __future__ import annotations

from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.files import folder_size, readable_size
from pipeline.run.folder import Run, runs_folder
from pipeline.run.leftovers import remove
from pipeline.run.progress import say

# One of these makes a folder a run's.
MARKS = ("config.yaml", ".lock", "dataset/manifest.json", "checkpoints")


def run_folders(root: Path) -> list[Path]:
    """Folders in RUNS that hold a run; a link to one is not followed."""
    folders = (
        [path for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink()] if root.is_dir() else []
    )
    return [folder for folder in folders if any((folder / mark).exists() for mark in MARKS)]


def show_runs(root: Path) -> list[Path]:
    """Prints what `make clean-runs` would remove, with sizes; returns the folders.

    Raises:
        UserError: there is nothing to remove.
    """
    sizes = {folder: folder_size(folder) for folder in run_folders(root)}
    if not sizes:
        raise UserError("there are no runs here", str(root), "name another folder with RUNS=...")
    for folder, size in sizes.items():
        say(f"{readable_size(size):>10}  {folder}")
    say(f"{readable_size(sum(sizes.values())):>10}  in {len(sizes)} runs")
    return list(sizes)


def clean() -> None:
    """Removes half-written folders of killed processes, in all runs."""
    for folder in run_folders(runs_folder()):
        Run(folder).sweep()


def clean_runs(agreed: bool) -> None:
    """Lists all run folders, and removes them when that was agreed to.

    Raises:
        UserError: it was not, or a run is in use.
    """
    folders = show_runs(runs_folder())
    if not agreed:
        what = "these runs would be removed, with all that was trained in them; nothing was"
        fix = "to remove them: make clean-runs YES=1, or suri clean-runs --yes"
        raise UserError(what, str(runs_folder()), fix)
    for folder in folders:
        with Run(folder).lock():
            remove(folder)
        say(f"removed: {folder}")
