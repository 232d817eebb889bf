"""Reads a source into raw rows, each with the place it came from.

A file is recognised by its content, not by its name: Parquet and Arrow by their first bytes, `[` opens a JSON array,
`{` a line of JSONL, and what has a first line of several cells is CSV or TSV; each may be packed (`packed.py`). What is
wrong with one row stays with that row; only what makes the whole file unreadable stops the run. No file is read whole.
"""

from __future__ import annotations

import codecs
import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.config.schema import Source
from pipeline.dataset.read import columnar, csv_rows, hub, json_rows
from pipeline.dataset.read.compressed import Bomb, Damaged, Stream, opened
from pipeline.dataset.read.raw import Raw
from pipeline.dataset.read.tree import gathered
from pipeline.demo.families import generate
from pipeline.run.encoding import SAMPLE, likely_encoding
from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest_file

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
DATA_FILE = re.compile(r"\.(jsonl?|csv|tsv|txt|parquet|arrow|ya?ml|gz|zip|xz|bz2|zst)$", re.IGNORECASE)
BOM = b"\xef\xbb\xbf"


def labels(sources: Sequence[Source]) -> list[str]:
    """A name for each source that no other has: its path, if need be with its subset or a number."""
    paths = Counter(source.path for source in sources)
    found: list[str] = []
    for source in sources:
        name = f"{source.path}:{source.subset}" if source.subset and paths[source.path] > 1 else source.path
        names = itertools.chain([name], (f"{name} #{number}" for number in itertools.count(2)))
        found.append(next(n for n in names if n not in found and (n == source.path or n not in paths)))
    return found


def kind_of(source: Source) -> str:
    """`families`, `file`, `files` (a glob), `folder` or `hub`.

    Raises:
        UserError: a path that does not exist and cannot be a hub id, or a glob that matches no file.
    """
    if source.path == "families":
        return "families"
    path = Path(source.path)
    if os.path.isfile(path):
        return "file"
    if os.path.isdir(path):
        return "folder"
    if glob.has_magic(source.path) and _matches(source.path):
        return "files"
    beside = os.path.isdir(path.parent)
    if HUB_ID.match(source.path) and not DATA_FILE.search(source.path) and not beside:
        return "hub"
    fix = nearest_file(path, "give a file, a glob, a folder, or a hub id such as tatsu-lab/alpaca", most=3)
    what = "no file matches" if glob.has_magic(source.path) else "no such data file"
    raise UserError(f"{what}: {source.path}", "data.sources", fix)


def files_of(source: Source) -> list[Path]:
    """The files that decide what the source holds, in the order of reading; none for families and hub data sets.

    Raises:
        UserError: as `kind_of`.
    """
    kind = kind_of(source)
    if kind == "file":
        return [Path(source.path)]
    if kind == "files":
        return _matches(source.path)
    if kind == "folder":
        return [p for p in sorted(Path(source.path).rglob("*")) if p.is_file() and not p.name.startswith(".")]
    return []


def _matches(pattern: str) -> list[Path]:
    try:
        return [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(name)]
    except (OSError, ValueError):  # a name that no file can have
        return []


def read(source: Source, seed: int) -> Iterator[Raw]:
    """The rows of a source in their order, as they stand there; `form.rows` makes instructions of them.

    Messages of one tree (`pipeline.dataset.read.tree`) are one row.

    Raises:
        UserError: the source as a whole cannot be read.
    """
    yield from gathered(_read(source, seed))


def _read(source: Source, seed: int) -> Iterator[Raw]:
    kind = kind_of(source)
    if kind == "families":
        yield from _families(source, seed)
        return
    files = hub.split_files(source) if kind == "folder" else files_of(source)
    if kind == "hub" or files is None:
        yield from hub.loaded(source, kind)
        return
    for path in files:
        yield from _file(path, source)


def _families(source: Source, seed: int) -> Iterator[Raw]:
    try:
        rows = generate(source.rows or 0, seed)
    except ValueError as error:
        raise UserError(str(error), "data.sources: families", "ask for fewer rows") from None
    for i, row in enumerate(rows):
        yield Raw(row, f"families:{i + 1}")


def _file(path: Path, source: Source) -> Iterator[Raw]:
    number = 0
    try:
        with opened(path) as stream:
            for raw in _rows(stream, path, source):
                number += 1
                yield raw
    except Bomb as error:
        fix = "do not use it; where it is meant so, unpack it and name the file inside"
        raise UserError(f"{error}, after {number:,} rows", str(path), fix) from None
    except Damaged as error:
        fix = "fetch or copy the file again; nothing of it was used"
        raise UserError(f"{error}, after {number:,} rows", str(path), fix) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", str(path), "check the file's rights") from None


def _rows(stream: Stream, path: Path, source: Source) -> Iterator[Raw]:
    head = stream.peek(64)
    if columnar.is_columnar(head):
        return columnar.rows(stream, path, source)
    coding, place = _other_coding(head), str(path)
    if not coding:
        coding, first = _eight_bit_coding(head)
        place = f"{path}:{first}"
    if coding:
        fix = f"iconv -f {coding} -t UTF-8 {path} > new{path.suffix}"
        raise UserError(f"the file is {coding}, not UTF-8", place, fix)
    if head.startswith(BOM):
        stream.read(len(BOM))
    line = _to_first_line(stream)
    head = stream.peek(1)
    start = head.lstrip(b" \t\r\n")
    if not start:
        raise UserError("the file is empty", str(path), "it needs rows of instruction, input and output")
    if start.startswith(b"["):
        return json_rows.array(stream, str(path), line)
    if start.startswith(b"{"):
        return json_rows.lines(stream, str(path), line)
    if csv_rows.delimiter_of(head):
        return csv_rows.rows(stream, str(path), line, source)
    begin = start.decode("utf-8", "surrogateescape")[:20]
    raise UserError(
        f"neither JSON nor JSONL, CSV, Parquet or Arrow: it begins with {begin!r}", f"{path}:{line}",
        "the file must hold an array of rows, one row a line, or a table whose first line names the columns",
    )  # fmt: skip


def _to_first_line(stream: Stream) -> int:
    """Moves to the first line that is not blank and gives its number."""
    line = 1
    while head := stream.peek(1):
        blank = len(head) - len(head.lstrip(b" \t\r\n"))
        gone = blank if blank == len(head) else head.rfind(b"\n", 0, blank) + 1
        line += stream.read(gone).count(b"\n")
        if blank < len(head):
            break
    return line


def _other_coding(head: bytes) -> str:
    """Name of a Unicode coding that is not UTF-8: told by its mark, or by the zero beside the first ASCII sign."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    first = head[:2]
    if len(first) == 2 and first.count(0) == 1:
        return "UTF-16LE" if first[1] == 0 else "UTF-16BE"
    return ""


def _eight_bit_coding(head: bytes) -> tuple[str, int]:
    """Name of an encoding such as CP949, where most lines of the file's beginning are not UTF-8 but that, and the first
    of them; an empty name where single lines are not UTF-8, which cost only their rows."""
    lines = head[:SAMPLE].split(b"\n")
    wrong = [number for number, line in enumerate(lines, 1) if not _is_utf_8(line)]
    if len(wrong) * 2 <= sum(bool(line.strip()) for line in lines):
        return "", 0
    coding = likely_encoding(b"\n".join(lines[number - 1] for number in wrong))
    return coding if coding != "WINDOWS-1252" or len(wrong) > 2 else "", wrong[0]


def _is_utf_8(line: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(line)  # its end may be cut off
    except UnicodeDecodeError:
        return False
    return True
