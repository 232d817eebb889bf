"""`make data-diff A=run1 B=run2`: what changed between two builds of a data set."""

import sys
from pathlib import Path

from pipeline.command import guarded
from pipeline.dataset.diff import show
from pipeline.run.errors import UserError
from pipeline.run.folder import Run


def work() -> None:
    if len(sys.argv) != 3 or not all(sys.argv[1:]):
        raise UserError("two runs are needed", "A and B", "make data-diff A=run1 B=run2, names or run folders")
    a, b = (Path(name) if Path(name, "dataset").is_dir() else Run.of(name).root for name in sys.argv[1:])
    for root in (a, b):
        Run(root).check("dataset")
    show(a, b)


if __name__ == "__main__":
    raise SystemExit(guarded(work))
