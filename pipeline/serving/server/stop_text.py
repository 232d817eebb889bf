"""Texts at which an answer ends, found across the borders of tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes on the text of an answer up to the first stop text.

    The end of what came so far is held back while it may be the beginning of a stop text:

        stop "END"    in  "The E"  "N"  "D."       in  "The E"  "x"
                      out "The "   ""   ""         out "The "   "Ex"

    Attributes:
        found: the stop text that ended the answer; None: none so far.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        self.found: str | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """What can be passed on, once this text has come."""
        if self.found is not None or not self.texts:
            return "" if self.found is not None else text
        whole = self._held + text
        places = [(whole.find(stop), -len(stop), stop) for stop in self.texts]
        first = min((place for place in places if place[0] >= 0), default=None)
        if first is not None:
            self.found, self._held = first[2], ""
            return whole[: first[0]]
        held = max(_overlap(whole, stop) for stop in self.texts)
        self._held = whole[len(whole) - held :]
        return whole[: len(whole) - held]

    def finish(self) -> str:
        """What was held back, when the answer ends otherwise."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop text begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
