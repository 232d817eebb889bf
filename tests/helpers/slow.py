"""Writes tests/slow.txt, the tests that `make test` leaves out because they take long: python -m tests.helpers.slow

A test is listed if it needs no extra, is not in tests/invariants/, and takes LIMIT seconds or more. A file is listed as
a whole if, measured again without its listed tests, a set-up in it takes so long, such as a run that its tests look at.
Run this on a machine that does nothing else. `make test-all` runs all tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

LIST = Path(__file__).parents[1] / "slow.txt"
LIMIT = 0.35  # seconds
EXTRAS = "report or ray or browser or eval or judge or documents or llama or notebook or serving or s3"


def listed() -> frozenset[str]:
    """Ids of tests, and paths of files."""
    return frozenset(LIST.read_text(encoding="utf-8").splitlines()) if LIST.is_file() else frozenset()


def main() -> int:
    LIST.write_text("", encoding="utf-8")
    slow = {name for name, s in _measured("call|setup").items() if s >= LIMIT}
    _write(slow)
    files = {name.partition("::")[0] for name, s in _measured("setup").items() if s >= LIMIT}
    _write({name for name in slow if name.partition("::")[0] not in files} | files)
    return 0


def _write(names: set[str]) -> None:
    LIST.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")
    print(f"{len(names)} tests and files are listed in {LIST.name}")


def _measured(what: str) -> dict[str, float]:
    """Runs the core without what is listed; returns the seconds of each test outside tests/invariants/.

    what: `setup`, or `call|setup` for both.
    """
    words = ["-m", "pytest", "-m", f"not (slow or {EXTRAS})", "--durations=0", "--durations-min=0.01"]
    output = subprocess.run([sys.executable, *words], capture_output=True, text=True).stdout
    print(output.splitlines()[-1])
    seconds: dict[str, float] = defaultdict(float)
    for line in output.splitlines():
        if match := re.match(rf"(\d+\.\d+)s (?:{what})\s+(tests/.+)", line):
            seconds[match[2].strip()] += float(match[1])
    return {name: s for name, s in seconds.items() if not name.startswith("tests/invariants/")}


if __name__ == "__main__":
    raise SystemExit(main())
