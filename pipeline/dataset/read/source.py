"""Reads a source into raw rows, each with its place.

A file is recognised by its content, not by its name: Parquet and Arrow by their first bytes, a JSON array by `[`, JSONL
by `{`, and CSV or TSV by a first line of several cells; each may be compressed (`compressed.py`). A bad row is rejected
alone; only a file that cannot be read at all stops the run. Files are streamed.
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
from pipeline.dataset.read.row import RawRow
from pipeline.dataset.read.tree import join_trees
from pipeline.demo.families import generate
from pipeline.run.encoding import SAMPLE, likely_encoding
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.nearest import nearest_file
from pipeline.run.next_command import is_suri, program
from pipeline.run.object_address import is_address
from pipeline.run.object_store import DataFile, objects

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
DATA_FILE = re.compile(r"\.(jsonl?|csv|tsv|txt|parquet|arrow|ya?ml|gz|zip|xz|bz2|zst)$", re.IGNORECASE)
GENERATED, GENERATED_ROWS = "generated", "rows.jsonl"  # folder of the generate stage, and the file that is a source
BOM = b"\xef\xbb\xbf"


def labels(sources: Sequence[Source]) -> list[str]:
    """A unique name for each source: its path, if necessary with its subset or a number."""
    paths = Counter(source.path for source in sources)
    unique: list[str] = []
    for source in sources:
        name = f"{source.path}:{source.subset}" if source.subset and paths[source.path] > 1 else source.path
        names = itertools.chain([name], (f"{name} #{number}" for number in itertools.count(2)))
        unique.append(next(n for n in names if n not in unique and (n == source.path or n not in paths)))
    return unique


def located(path: str) -> Path:
    """Where a source is. `runs/NAME/generated` is in the folder of that run, wherever RUNS says that runs are."""
    return Run.of(Path(path).parts[1]).folder(GENERATED) if _is_of_generate(path) else Path(path)


def _is_of_generate(path: str) -> bool:
    """Whether a path is of the form runs/NAME/generated."""
    parts = Path(path).parts
    return len(parts) == 3 and parts[0] == "runs" and parts[2] == GENERATED


def _config_argument(run: Path) -> str:
    """The config of a run as a command takes it: the run's own copy where there is one, else the file of its name."""
    own = run / "config.yaml"
    path = own if own.is_file() else Path("configs") / f"{run.name}.yaml"
    return str(path) if is_suri() else f"CONFIG={path}"


def kind_of(source: Source) -> str:
    """`families`, `objects` (s3://), `generated` (what `generate` writes), `file`, `files` (a glob), `folder`
    or `hub`.

    Raises:
        UserError: a path that does not exist and cannot be a hub id, or a glob that matches no file.
    """
    if source.path == "families":
        return "families"
    if is_address(source.path):
        return "objects"
    path = located(source.path)
    if path.name == GENERATED and os.path.isfile(path / GENERATED_ROWS):
        return "generated"
    if os.path.isfile(path):
        return "file"
    if os.path.isdir(path):
        return "folder"
    if glob.has_magic(source.path) and _matches(source.path):
        return "files"
    has_parent = os.path.isdir(path.parent)
    if HUB_ID.match(source.path) and not DATA_FILE.search(source.path) and not has_parent:
        return "hub"
    if _is_of_generate(source.path):
        fix = f"`{program()} generate {_config_argument(path.parent)}` makes them"
        raise UserError(f"no rows were generated yet: {source.path}", "data.sources", fix)
    fix = nearest_file(path, "give a file, a glob, a folder, or a hub id such as tatsu-lab/alpaca", most=3)
    what = "no file matches" if glob.has_magic(source.path) else "no such data file"
    raise UserError(f"{what}: {source.path}", "data.sources", fix)


def files_of(source: Source) -> list[DataFile]:
    """The files of the source, in the order of reading; none for families and hub data sets.

    Raises:
        UserError: as `kind_of`; an object store cannot be read, or has no such object.
    """
    kind = kind_of(source)
    if kind == "objects":
        return [*objects(source.path)]
    if kind == "generated":
        return [located(source.path) / GENERATED_ROWS]
    if kind == "file":
        return [Path(source.path)]
    if kind == "files":
        return [*_matches(source.path)]
    if kind == "folder":
        return [p for p in sorted(Path(source.path).rglob("*")) if p.is_file() and not p.name.startswith(".")]
    return []


def _matches(pattern: str) -> list[Path]:
    try:
        return [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(name)]
    except (OSError, ValueError):  # not a valid file name
        return []


def read(source: Source, seed: int) -> Iterator[RawRow]:
    """The rows of a source in their order and unchanged; `alpaca_form.to_alpaca` converts them.

    Messages of one tree (`pipeline.dataset.read.tree`) are one row.

    Raises:
        UserError: the source as a whole cannot be read.
    """
    yield from join_trees(_read(source, seed))


def _read(source: Source, seed: int) -> Iterator[RawRow]:
    kind = kind_of(source)
    if kind == "families":
        yield from _families(source, seed)
        return
    files: Sequence[DataFile] | None = hub.split_files(source) if kind == "folder" else files_of(source)
    if kind == "hub" or files is None:
        yield from hub.loaded(source, kind)
        return
    for path in files:
        yield from _file(path, source)


def _families(source: Source, seed: int) -> Iterator[RawRow]:
    try:
        rows = generate(source.rows or 0, seed)
    except ValueError as error:
        raise UserError(str(error), "data.sources: families", "ask for fewer rows") from None
    for i, row in enumerate(rows):
        yield RawRow(row, f"families:{i + 1}")


def _file(path: DataFile, source: Source) -> Iterator[RawRow]:
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


def _rows(stream: Stream, path: DataFile, source: Source) -> Iterator[RawRow]:
    head = stream.peek(64)
    if columnar.is_columnar(head):
        return columnar.rows(stream, path, source)
    encoding, place = _unicode_encoding(head), str(path)
    if not encoding:
        encoding, first = _eight_bit_encoding(head)
        place = f"{path}:{first}"
    if encoding:
        fix = f"iconv -f {encoding} -t UTF-8 {path} > new{path.suffix}"
        raise UserError(f"the file is {encoding}, not UTF-8", place, fix)
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
    """Moves to the first line that is not blank and returns its number."""
    line = 1
    while head := stream.peek(1):
        blank = len(head) - len(head.lstrip(b" \t\r\n"))
        skipped = blank if blank == len(head) else head.rfind(b"\n", 0, blank) + 1
        line += stream.read(skipped).count(b"\n")
        if blank < len(head):
            break
    return line


def _unicode_encoding(head: bytes) -> str:
    """Name of a Unicode encoding other than UTF-8, by its byte order mark or the zero next to the first character."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    first = head[:2]
    if len(first) == 2 and first.count(0) == 1:
        return "UTF-16LE" if first[1] == 0 else "UTF-16BE"
    return ""


def _eight_bit_encoding(head: bytes) -> tuple[str, int]:
    """Name of an encoding such as CP949 if most lines of the file's beginning are in it, and the first such line.

    Empty if only single lines are not UTF-8: these rows are rejected alone.
    """
    lines = head[:SAMPLE].split(b"\n")
    wrong = [number for number, line in enumerate(lines, 1) if not _is_utf_8(line)]
    if len(wrong) * 2 <= sum(bool(line.strip()) for line in lines):
        return "", 0
    encoding = likely_encoding(b"\n".join(lines[number - 1] for number in wrong))
    return encoding if encoding != "WINDOWS-1252" or len(wrong) > 2 else "", wrong[0]


def _is_utf_8(line: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(line)  # its end may be missing
    except UnicodeDecodeError:
        return False
    return True
