"""Rows of CSV and TSV, one after the other; the first line names the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from pipeline.config.schema import Source
from pipeline.dataset.read.compressed import Stream
from pipeline.dataset.read.forms import require_columns
from pipeline.dataset.read.row import RawRow
from pipeline.run.errors import UserError

DELIMITERS = "\t,;|"
LONGEST_CELL = 1 << 27  # characters, 4 bytes each in the reader: a bound for a quote that is never closed


def delimiter_of(head: bytes) -> str:
    """The delimiter of a table that begins with these bytes; empty if it is not a table."""
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


def records(
    stream: Stream, name: str, line: int, delimiter: str, strict: bool = True, longest: int = LONGEST_CELL
) -> Iterator[tuple[str, list[str], str]]:
    """Place, cells and error of each record, blank lines too. The stream begins with the file's line `line`.

    Args:
        strict: a stray quotation mark is an error of its record; otherwise it is a part of the text.
        longest: characters in a cell at most.

    Raises:
        UserError: a quotation mark is never closed.
    """
    csv.field_size_limit(longest)
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=strict)
    while True:
        place = f"{name}:{line + reader.line_num}"
        try:
            yield place, next(reader), ""
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                what = "a quotation mark that is opened in this row is never closed"
                raise UserError(what, place, "close it, or write it twice where it belongs to the text") from None
            yield place, [], f"not valid CSV: {error}; inside quotes a quotation mark is written twice"


def rows(stream: Stream, name: str, line: int, source: Source) -> Iterator[RawRow]:
    """Each row as an object of texts, with the line in which it begins.

    A row with more or fewer cells than the header, or with a stray quotation mark, is rejected alone.

    Raises:
        UserError: a required column is missing, two have one name, or a quotation mark is never closed.
    """
    table = records(stream, name, line, delimiter_of(stream.peek(1)))
    where, cells, _ = next(table)
    header = [cell.strip() for cell in cells]
    require_columns([cell for cell in header if cell], source, where)
    for place, cells, error in table:
        if error:
            yield RawRow(None, place, error, "not-csv")
        elif len(cells) == len(header):
            yield RawRow({key: cell for key, cell in zip(header, cells, strict=True) if key}, place)
        elif cells:
            yield RawRow(cells, place, f"{len(cells)} cells where the header has {len(header)}", "ragged")
