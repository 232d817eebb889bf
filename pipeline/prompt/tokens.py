"""Encoded rows on disk, as Arrow. A split that is read takes about 20 bytes of memory per token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.prompt.encode import IGNORE, Row

# 64-bit offsets: with 32 bits a split of more than 2^31 tokens would be read as several chunks.
IDS = pa.large_list(pa.int32())
SCHEMA = pa.schema([("input_ids", IDS), ("labels", IDS), ("id", pa.string())])

PART = "#"  # in the name of a row that holds only the beginning of a conversation: ID#1


def example_id(name: str) -> str:
    """Id of the example that a row is of."""
    return name.partition(PART)[0]


class Tokens:
    """Rows of one split.

    Attributes:
        lengths: tokens of each row, int64, shape (rows,).
        labelled: labelled tokens of each row, int64, shape (rows,).
        ids, labels: of all rows, concatenated, int32, shape (tokens,); row i is [offsets[i], offsets[i + 1]).
        names: content hash of each row.
    """

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        self.ids, self.offsets = _flat(table["input_ids"])
        self.labels, _ = _flat(table["labels"])
        self.names = table["id"]
        self.lengths = np.diff(self.offsets)
        is_labelled = self.labels != IGNORE
        if len(self.lengths):
            is_labelled[self.offsets[:-1]] = False  # nothing predicts the first token of a row
        sums = np.concatenate([[0], np.cumsum(is_labelled)])
        self.labelled = sums[self.offsets[1:]] - sums[self.offsets[:-1]]

    def without_parts(self) -> list[int]:
        """Indices of the rows that are whole examples: one for each example that was encoded."""
        return [i for i, name in enumerate(self.names.to_pylist()) if PART not in name]

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """input_ids and labels of one row, int32, shape (length,)."""
        span = slice(self.offsets[index], self.offsets[index + 1])
        return self.ids[span], self.labels[span]

    def names_of(self, rows: Sequence[int]) -> list[str]:
        """Content hashes of some rows."""
        return [str(self.names[row]) for row in rows]


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of a list column."""
    if column.num_chunks == 0:
        return np.zeros(0, np.int32), np.zeros(1, np.int64)
    array = column.chunk(0)
    return array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy().astype(np.int64)


class TokenWriter:
    """Appends rows to a file as they are encoded."""

    def __init__(self, path: Path) -> None:
        self._writer = pa.ipc.new_file(str(path), SCHEMA)

    def write(self, rows: Iterable[Row], names: Iterable[str]) -> None:
        rows = list(rows)
        columns = [
            pa.array([r.ids for r in rows], IDS),
            pa.array([r.labels for r in rows], IDS),
            pa.array(list(names), pa.string()),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))

    def close(self) -> None:
        self._writer.close()
