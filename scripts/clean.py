"""`make clean` and `make clean-runs`: python -m scripts.clean tmp | runs [yes].

tmp: half-written folders of killed processes, in all runs. runs: all run folders; without `yes` they are only listed.
"""

import os
import sys
from pathlib import Path

from pipeline.command import guarded
from pipeline.run.errors import UserError
from pipeline.run.files import folder_size, readable_size
from pipeline.run.folder import Run
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


def work() -> None:
    words, root = sys.argv[1:], Path(os.environ.get("RUNS") or "runs")
    if words == ["tmp"]:
        for folder in run_folders(root):
            Run(folder).sweep()
        return
    if words not in (["runs"], ["runs", "yes"]):
        raise UserError(f"not known: {' '.join(words)}", "", "make clean, or make clean-runs")
    folders = show_runs(root)
    if words == ["runs"]:
        raise UserError("these runs would be removed, with all that was trained in them; nothing was", str(root),
                        "make clean-runs YES=1 removes them")  # fmt: skip
    for folder in folders:
        with Run(folder).lock():
            remove(folder)
        say(f"removed: {folder}")


if __name__ == "__main__":
    raise SystemExit(guarded(work))
