"""Progress bars with an ETA, and lines that do not break them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from pipeline.run.terminal import printable, safe

# tqdm's own lock is shared with processes forked from this one: one that is killed while it holds it stops all others
# for good. Only one process draws here.
tqdm.set_lock(threading.RLock())


def bar(
    items: Iterable[Any] | None = None, *, total: int | None = None, what: str, unit: str = "row", **more: Any
) -> tqdm:
    """A bar on stderr: shown after half a second, so that quick work stays quiet.

    In a log file (no terminal) it writes a line every ten seconds instead of redrawing.
    """
    live = sys.stderr.isatty()
    return tqdm(
        items, total=total, desc=safe(what), unit=unit, delay=0.5, mininterval=0.2 if live else 10,
        dynamic_ncols=live, ncols=None if live else 100, leave=True, smoothing=0.1, **more,
    )  # fmt: skip


def say(*words: object) -> None:
    """One line for the user, on stdout, above any bar. No escape sequence reaches the terminal but `Styled` ones."""
    tqdm.write(" ".join(printable(word) for word in words), file=sys.stdout)
    sys.stdout.flush()
