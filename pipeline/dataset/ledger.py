"""Every row that was read, in order: its text on disk, its features in memory, and its fate.

Texts wait in a spool file, so that data larger than memory passes through; some 400 bytes a row and 4 bytes a word
(a letter, in Korean) stay in memory.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.chunk import MARK, Features, Result
from pipeline.dataset.select.duplicates import Signatures


class Fate(NamedTuple):
    """Why a row that was whole does not go on. like: the row (of `Ledger.rows`) that it is too close to."""

    rule: str
    reason: str
    like: int = -1
    similarity: float = 0.0


@dataclass(frozen=True)
class Line:
    """A row as it waits: `text` is the JSON of its Example, or of its rejection."""

    at: int
    place: str
    text: str

    @property
    def row(self) -> dict[str, Any]:
        return dict(json.loads(self.text))


class Ledger:
    """Rows by position: `at` counts all that were read, `row` those that were still there after checks and rules.

    Attributes:
        where: `at` of each row. sources: source number of each `at`. fates: what became of rows that do not go on.
    """

    def __init__(self, spool: Path) -> None:
        self._file = open(spool, "w+b")  # noqa: SIM115  (closed by `close`)
        self._ends = array("q", [0])
        self.sources = array("l")
        self._kept = bytearray()
        self._parts: list[Features] = []
        self.fates: dict[int, Fate] = {}

    def __len__(self) -> int:
        """Rows read."""
        return len(self.sources)

    def add(self, result: Result) -> None:
        for line in result.lines:
            self._file.write(line + b"\n")
            self._ends.append(self._ends[-1] + len(line) + 1)
        self.sources.extend([result.source] * len(result.lines))
        self._kept += result.kept.astype(np.uint8).tobytes()
        self._parts.append(result.features)

    def seal(self) -> None:
        """Ends the reading: from here on there are features."""
        self._file.flush()
        self.where = np.flatnonzero(np.frombuffer(bytes(self._kept), np.uint8))
        self.features = _joined(self._parts)
        self._parts = []

    def close(self) -> None:
        self._file.close()

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows have met no fate. Shape (rows,)."""
        found = np.ones(len(self.where), np.bool_)
        found[list(self.fates)] = False
        return found

    def source_of(self, row: int) -> int:
        return self.sources[int(self.where[row])]

    def kept_like(self, row: int) -> int:
        """The kept row at the end of a chain of likenesses."""
        while row in self.fates and self.fates[row].like >= 0:
            row = self.fates[row].like
        return row

    def line(self, row: int) -> Line:
        """The waiting line of a row, wherever it stands in the file."""
        at = int(self.where[row])
        self._file.seek(self._ends[at])
        return _line(at, self._file.read(self._ends[at + 1] - self._ends[at] - 1))

    def size(self, row: int) -> int:
        """Bytes of a row's waiting line."""
        at = int(self.where[row])
        return self._ends[at + 1] - self._ends[at]

    def lines(self) -> Iterator[tuple[Line, int]]:
        """All lines in order, each with its row number, or -1 for what was rejected by checks and rules."""
        row = -1
        position = 0
        for at in range(len(self)):
            self._file.seek(position)  # `line` may have moved on in between
            data = self._file.read(self._ends[at + 1] - self._ends[at] - 1)
            position = self._ends[at + 1]
            row += self._kept[at]
            yield _line(at, data), row if self._kept[at] else -1


def _line(at: int, data: bytes) -> Line:
    place, _, text = data.decode("utf-8", "surrogatepass").rpartition(MARK)
    return Line(at, place, text)


def _joined(parts: list[Features]) -> Features:
    """Features of all chunks as one; the parts are let go field by field, since both are in memory meanwhile."""
    found: dict[str, Any] = {}
    for field in fields(Features):
        values = [getattr(p, field.name) for p in parts]
        if not values or values[0] is None:
            found[field.name] = None
        elif isinstance(values[0], Signatures):
            found[field.name] = Signatures.joined(values)
        elif isinstance(values[0], list):
            found[field.name] = [item for value in values for item in value]
        else:
            found[field.name] = np.concatenate(values)
        for part in parts:
            setattr(part, field.name, None)
    return Features(**found)
