"""What reading gives: a raw row and its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Raw:
    """A row before it is checked: its value (None when it could not even be parsed) and the place it came from.

    A row that cannot be used already says why: `error` is the reason, `rule` the name under which it is counted.
    """

    value: Any
    place: str
    error: str = ""
    rule: str = "not-json"

    def refused(self, rule: str, reason: str, place: str = "") -> Raw:
        """The same row with the reason why it cannot be used."""
        return Raw(self.value, place or self.place, reason, rule)
