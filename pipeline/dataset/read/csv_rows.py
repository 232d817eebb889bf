"""Rows of CSV and TSV, one after the other; the first line names the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from pipeline.config.schema import Source
from pipeline.dataset.read.compressed import Stream
from pipeline.dataset.read.form import require
from pipeline.dataset.read.raw import Raw
from pipeline.run.errors import UserError

DELIMITERS = "\t,;|"
LONGEST_CELL = 1 << 27  # signs, 4 bytes each in the reader: an upper bound where a quote is never closed


def delimiter_of(head: bytes) -> str:
    """What stands between the cells of a table that begins with these bytes; empty when it is no table."""
    text = head.decode("utf-8", "surrogateescape")
    if text.lstrip()[:1] in ("<", ""):  # a web page
        return ""
    widths = {d: len(_header(text, d)) for d in DELIMITERS}
    best = max(DELIMITERS, key=lambda d: widths[d])
    return best if widths[best] > 1 else ""


def _header(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def rows(stream: Stream, name: str, line: int, source: Source) -> Iterator[Raw]:
    """Each row as an object of texts, with the line in which it begins; the stream begins with the file's line `line`.

    A row with more or fewer cells than the header, or with a stray quote, is rejected alone.

    Raises:
        UserError: the columns that are needed are not there, two have one name, or a quote is never closed.
    """
    csv.field_size_limit(LONGEST_CELL)
    delimiter = delimiter_of(stream.peek(1))
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header = [cell.strip() for cell in next(reader)]
    where = f"{name}:{line}"
    for i, cell in enumerate(header):
        if cell and cell in header[:i]:
            raise UserError(f"two columns are called {cell[:40]!r}", where, "give each column a name of its own")
    require([cell for cell in header if cell], source, where)
    while True:
        place = f"{name}:{line + reader.line_num}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                said = "a quotation mark that is opened in this row is never closed"
                raise UserError(said, place, "close it, or write it twice where it belongs to the text") from None
            yield Raw(
                None, place, f"not valid CSV: {error}; inside quotes a quotation mark is written twice", "not-csv"
            )
            continue
        if len(cells) == len(header):
            yield Raw({key: cell for key, cell in zip(header, cells, strict=True) if key}, place)
        elif cells:
            reason = f"{len(cells)} cells where the header has {len(header)}"
            yield Raw(cells, place, reason, "ragged")
