"""Writes tests/slow.txt, the tests that `make test` leaves out because they take long: python -m tests.helpers.slow

A test is listed if it needs no extra, is not in tests/invariants/, and takes LIMIT seconds or more with its set-up.
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
EXTRAS = "report or ray or browser or eval or judge or notebook"
LINE = re.compile(r"(\d+\.\d+)s (?:call|setup)\s+(tests/.+)")


def listed() -> frozenset[str]:
    """Ids of the tests in the list."""
    return frozenset(LIST.read_text(encoding="utf-8").splitlines()) if LIST.is_file() else frozenset()


def main() -> int:
    words = ["-m", "pytest", "-m", f"not ({EXTRAS})", "--durations=0", "--durations-min=0.01"]
    output = subprocess.run([sys.executable, *words], capture_output=True, text=True).stdout
    seconds: dict[str, float] = defaultdict(float)
    for match in map(LINE.match, output.splitlines()):
        if match:
            seconds[match[2].strip()] += float(match[1])
    slow = sorted(name for name, s in seconds.items() if s >= LIMIT and not name.startswith("tests/invariants/"))
    LIST.write_text("".join(f"{name}\n" for name in slow), encoding="utf-8")
    print(output.splitlines()[-1])
    print(f"{len(slow)} tests of {sum(seconds[name] for name in slow):.0f} s are listed in {LIST.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
