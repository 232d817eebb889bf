"""Every row that was read, in order: its text and signature on disk, its other features in memory, and why it was
dropped.

Texts and signatures (`SignatureFiles`) are in temporary files, so that the data may be larger than memory; signatures
are mapped, so that the system keeps as much of them in memory as there is room for. docs/scaling.md has the bytes.

    at    0  1  2  3  4  5      every row that was read
    row   0     1  2     3      accepted by checks and rules; `where[row]` is `at`
    drops    {1: Drop(...)}     dropped by comparisons, limits or the mixture
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.chunk import SEPARATOR, ChunkResult, Features
from pipeline.dataset.signature_files import SignatureFiles


class Drop(NamedTuple):
    """Why an accepted row was dropped. like: the earlier row that it is too similar to, or -1."""

    rule: str
    reason: str
    like: int = -1
    similarity: float = 0.0


@dataclass(frozen=True)
class StoredRow:
    """A row in the temporary file. text: JSON of its `Example`, or of its `Rejected`."""

    at: int
    place: str
    text: str

    @property
    def row(self) -> dict[str, Any]:
        return dict(json.loads(self.text))


class Ledger:
    """All rows by number: `at` and `row` as in the drawing above. A context manager; the file is deleted at its end.

    Attributes:
        where: `at` of each row, shape (rows,). sources: source number of each `at`. drops: by row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signatures = SignatureFiles(path)
        self._file = open(path, "w+b")  # noqa: SIM115  (closed by `__exit__`)
        self._ends = array("q", [0])
        self.sources = array("l")
        self._accepted = bytearray()
        self._features: list[Features] = []
        self.drops: dict[int, Drop] = {}

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._path.unlink()
        self._signatures.close()

    def __len__(self) -> int:
        """Rows read."""
        return len(self.sources)

    def add(self, result: ChunkResult) -> None:
        for line in result.lines:
            self._file.write(line + b"\n")
            self._ends.append(self._ends[-1] + len(line) + 1)
        self.sources.extend([result.source] * len(result.lines))
        self._accepted += result.accepted.astype(np.uint8).tobytes()
        self._features.append(replace(result.features, signatures=None))
        if result.features.signatures is not None:
            self._signatures.add(result.features.signatures)

    def finish_reading(self) -> None:
        """No row is added after this; sets `where` and `features`."""
        self._file.flush()
        self.where = np.flatnonzero(np.frombuffer(bytes(self._accepted), np.uint8))
        self.features = _joined(self._features)
        self.features.signatures = self._signatures.mapped()
        self._features = []

    @property
    def remaining(self) -> NDArray[np.bool_]:
        """Which rows were not dropped so far. Shape (rows,)."""
        mask = np.ones(len(self.where), np.bool_)
        mask[list(self.drops)] = False
        return mask

    def source_of(self, row: int) -> int:
        return self.sources[int(self.where[row])]

    def kept_like(self, row: int) -> int:
        """The kept row at the end of the chain of `like`."""
        while row in self.drops and self.drops[row].like >= 0:
            row = self.drops[row].like
        return row

    def stored(self, row: int) -> StoredRow:
        """One row, read from the file."""
        at = int(self.where[row])
        self._file.seek(self._ends[at])
        return _stored(at, self._file.read(self._ends[at + 1] - self._ends[at] - 1))

    def size(self, row: int) -> int:
        """Bytes of a row in the file."""
        at = int(self.where[row])
        return self._ends[at + 1] - self._ends[at]

    def all_stored(self) -> Iterator[tuple[StoredRow, int]]:
        """All rows in order of `at`, each with its `row`, or -1 if it was rejected by checks and rules."""
        row = -1
        position = 0
        for at in range(len(self)):
            self._file.seek(position)  # `stored` may have moved it in between
            data = self._file.read(self._ends[at + 1] - self._ends[at] - 1)
            position = self._ends[at + 1]
            row += self._accepted[at]
            yield _stored(at, data), row if self._accepted[at] else -1


def _stored(at: int, data: bytes) -> StoredRow:
    place, _, text = data.decode("utf-8", "surrogatepass").rpartition(SEPARATOR)
    return StoredRow(at, place, text)


def _joined(chunks: list[Features]) -> Features:
    """Features of all chunks as one; each field is freed after it was joined, to save memory."""
    joined: dict[str, Any] = {}
    for field in fields(Features):
        values = [getattr(chunk, field.name) for chunk in chunks]
        if not values or values[0] is None:
            joined[field.name] = None
        elif isinstance(values[0], list):
            joined[field.name] = [item for value in values for item in value]
        else:
            joined[field.name] = np.concatenate(values)
        for chunk in chunks:
            setattr(chunk, field.name, None)
    return Features(**joined)
