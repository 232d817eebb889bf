"""`make clean` and `make clean-runs`: python -m scripts.clean tmp | runs [yes].

tmp: half-written folders of killed processes, in all runs. runs: all run folders; without `yes` they are only listed.
"""

import os
import sys
from pathlib import Path

from pipeline.command import guarded
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.leftovers import remove, run_folders, show_runs
from pipeline.run.progress import say


def work() -> None:
    words, root = sys.argv[1:], Path(os.environ.get("RUNS") or "runs")
    if words == ["tmp"]:
        for folder in run_folders(root):
            Run(folder).sweep()
        return
    if words not in (["runs"], ["runs", "yes"]):
        raise UserError(f"not known: {' '.join(words)}", "", "make clean, or make clean-runs")
    found = show_runs(root)
    if words == ["runs"]:
        raise UserError("these runs would be removed, with all that was trained in them; nothing was", str(root),
                        "make clean-runs YES=1 removes them")  # fmt: skip
    for folder in found:
        with Run(folder).lock():
            remove(folder)
        say(f"removed: {folder}")


if __name__ == "__main__":
    raise SystemExit(guarded(work))
