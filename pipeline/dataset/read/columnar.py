"""Rows of Parquet and Arrow files and of data sets that the library `datasets` loads, a thousand at a time.

Memory: a row group of Parquet, a record batch of Arrow (memory-mapped if the file is not compressed).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.read.compressed import MOST_GROWTH, READ, Bomb, Damaged, Stream, is_compressed, most_of
from pipeline.dataset.read.forms import require_columns
from pipeline.dataset.read.row import RawRow
from pipeline.run.errors import UserError, one_line
from pipeline.run.object_store import DataFile, Object

BATCH = 1000  # rows that are Python objects at once
PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def is_columnar(head: bytes) -> bool:
    return head.startswith((PARQUET, ARROW_FILE, ARROW_STREAM))


def rows(stream: Stream, path: DataFile, source: Source) -> Iterator[RawRow]:
    """Rows of a Parquet file, an Arrow file, or an Arrow stream such as `datasets` writes.

    Raises:
        UserError: a required column is missing.
        Damaged: the file is broken or cut off.
    """
    import pyarrow
    from pyarrow import ipc, parquet

    READ.is_known = False
    head = stream.peek(8)
    kind = "Parquet" if head.startswith(PARQUET) else "Arrow"
    with contextlib.ExitStack() as stack:
        try:
            if is_compressed(stream):  # both formats are read from their end, so they are decompressed to disk first
                spool = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(stream, spool)
                file = stack.enter_context(pyarrow.PythonFile(spool, "r"))
            else:
                where = path.random_access() if isinstance(path, Object) else pyarrow.memory_map(str(path))
                file = stack.enter_context(where)
            if kind == "Parquet":
                opened = stack.enter_context(parquet.ParquetFile(file))
                _check_growth(opened.metadata, file.size(), path)
                batches: Iterable[Any] = opened.iter_batches(BATCH)
                names = opened.schema_arrow.names
            elif head.startswith(ARROW_FILE):
                opened = stack.enter_context(ipc.open_file(file))
                batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
                names = opened.schema.names
            else:
                _check_end(file)
                opened = stack.enter_context(ipc.open_stream(file))
                batches, names = opened, opened.schema.names
            yield from from_batches(batches, names, str(path), source, most_of(path))
        except (UserError, Damaged):
            raise
        except Exception as error:  # pyarrow raises many kinds of errors for broken bytes
            raise Damaged(f"the {kind} file is damaged or cut off ({one_line(error, 100)})") from None


def _check_growth(metadata: Any, size: int, path: DataFile) -> None:
    """Checks the sizes that the file states before anything is read.

    Raises:
        Bomb: they are far larger than data of the file's size decompresses to.
    """
    most = max(most_of(path), MOST_GROWTH * size)
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if max(unpacked, metadata.num_rows) > most:
        raise Bomb(f"the Parquet file of {size:,} bytes holds {metadata.num_rows:,} rows of {unpacked:,} bytes")


def from_batches(
    batches: Iterable[Any], names: list[str], name: str, source: Source, most: int | None = None
) -> Iterator[RawRow]:
    """Rows of Arrow record batches or tables, numbered from 1. Values keep their Arrow type: a timestamp or bytes do
    not become text, so that `row.check` can name the type.

    Args:
        most: bytes that all values together may have.

    Raises:
        Bomb: (while reading) they have more, such as a long text that a dictionary holds once for a million rows.
    """
    require_columns(names, source, name)
    number, size = 0, 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            size += sum(map(_size, batch.slice(start, BATCH).columns)) if most is not None else 0
            if most is not None and size > most:
                raise Bomb(
                    f"the values of the first {number + BATCH:,} rows have {size:,} bytes, far more than the file"
                )
            for value, error in _values(batch.slice(start, BATCH)):
                number += 1
                place = f"{name}, row {number}"
                yield RawRow(value, place, error, "unreadable-value") if error else RawRow(value, place)


def _size(column: Any) -> int:
    """Bytes of the values of a column; of a dictionary's as often as a row names them."""
    import pyarrow
    from pyarrow import compute, types

    kind = column.type
    try:
        column.validate(full=True)
        if isinstance(column, pyarrow.ChunkedArray):
            return sum(map(_size, column.chunks))
        if types.is_dictionary(kind):
            return compute.sum(compute.binary_length(column.dictionary).take(column.indices)).as_py() or 0
        if types.is_struct(kind):
            return sum(map(_size, column.flatten()))
        if types.is_list(kind) or types.is_large_list(kind):
            return _size(column.flatten())
        return int((compute.run_end_decode(column) if types.is_run_end_encoded(kind) else column).nbytes)
    except (pyarrow.ArrowInvalid, NotImplementedError):  # damaged, which `_values` says; or a dictionary of numbers
        return 0


def _values(piece: Any) -> Iterator[tuple[Any, str]]:
    """The rows of a batch as Python objects, or why that is impossible (a text that is not UTF-8, the year 20000)."""
    try:
        piece.validate(full=True)  # damaged offsets would crash the process instead of raising
        yield from [(value, "") for value in piece.to_pylist()]
    except Exception as error:  # pyarrow raises several kinds, by type of column
        if piece.num_rows == 1:
            yield None, f"holds a value that cannot be read: {one_line(error, 100)}"
            return
        for i in range(piece.num_rows):
            yield from _values(piece.slice(i, 1))


def _check_end(file: Any) -> None:
    """A stream cut between two batches differs from a complete one only in its last bytes."""
    file.seek(max(0, file.size() - len(END_OF_STREAM)))
    complete = file.read(len(END_OF_STREAM)) == END_OF_STREAM
    file.seek(0)
    if not complete:
        raise Damaged("the Arrow stream is cut off: its end mark is missing")
