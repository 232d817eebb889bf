"""Reads files of the data stage row by row, and samples rows by content hash."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.run.files import json_lines

Item = TypeVar("Item")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; none where the file is missing."""
    return json_lines(path) if path.is_file() else iter(())


class HashSample(Generic[Item]):
    """Keeps the `size` entries with the smallest tickets, in any order of arrival.

    A ticket is a content hash in hex, so what wins is random to the eye and the same on every machine. Of entries with
    one ticket (copies of a row) the first stays.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._heap: list[tuple[int, int]] = []  # (-ticket, number): the largest ticket on top
        self._items: dict[int, Item] = {}
        self._numbers = 0

    def wants(self, content_hash: str) -> bool:
        """Whether an entry with this ticket would be kept, for entries that cost something to make."""
        value = int(content_hash, 16)
        return value not in self._items and (len(self._heap) < self.size or value < -self._heap[0][0])

    def add(self, content_hash: str, item: Item) -> None:
        if not self.wants(content_hash):
            return
        value = int(content_hash, 16)
        self._numbers += 1
        self._items[value] = item
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, (-value, self._numbers))
        else:
            dropped, _ = heapq.heapreplace(self._heap, (-value, self._numbers))
            del self._items[-dropped]

    def drawn(self) -> list[Item]:
        """What was drawn, in the order of the tickets."""
        return [self._items[value] for value in sorted(self._items)]


def content_hash(value: Any) -> str:
    """A content hash for what has no id: a rejected row, a cluster."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
