"""Reads a source into raw rows, each with the place it came from.

A file is recognised by its content, not by its name: `[` opens a JSON array, `{` a line of JSONL. What is wrong with
one row stays with that row; only what makes the whole file unreadable stops the run.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.config import Source
from pipeline.dataset.families import generate
from pipeline.errors import UserError

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
DATA_FILE = re.compile(r"\.(jsonl?|csv|tsv|txt|parquet|arrow|ya?ml|gz|zip|xz|bz2|zst)$", re.IGNORECASE)
SPACE = re.compile(r"[ \t\n\r]*")
PACKED = (b"\x1f\x8b", b"PK", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, zip, bzip2, xz, zstd
DECODER = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 4000 else Decimal(digits))


@dataclass(frozen=True, slots=True)
class Raw:
    """A row before it is checked: its value (None when it could not even be parsed), place, and parse error."""

    value: Any
    place: str
    error: str = ""


def kind_of(source: Source) -> str:
    """`families`, `file`, `folder` or `hub`.

    Raises:
        UserError: a path that does not exist and cannot be a hub id.
    """
    if source.path == "families":
        return "families"
    path = Path(source.path)
    if os.path.isfile(path):
        return "file"
    if os.path.isdir(path):
        return "folder"
    beside = os.path.isdir(path.parent)
    if HUB_ID.match(source.path) and not DATA_FILE.search(source.path) and not beside:
        return "hub"
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], 1) if beside else []
    fix = "give a .json or .jsonl file, a folder, or a hub id such as tatsu-lab/alpaca"
    if near:
        fix = f"did you mean {path.parent / near[0]}?"
    raise UserError(f"no such data file: {source.path}", "data.sources", fix)


def read(source: Source, seed: int) -> Iterator[Raw]:
    """The rows of a source in their order.

    Raises:
        UserError: the source as a whole cannot be read.
    """
    kind = kind_of(source)
    if kind == "families":
        try:
            rows = generate(source.rows or 0, seed)
        except ValueError as error:
            raise UserError(str(error), "data.sources: families", "ask for fewer rows") from None
        for i, row in enumerate(rows):
            yield Raw(row, f"families:{i + 1}")
    elif kind == "file":
        yield from _file(Path(source.path))
    else:
        yield from _datasets(source.path, kind)


def _file(path: Path) -> Iterator[Raw]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", str(path), "check the file's rights") from None
    if coding := _other_coding(data):
        raise UserError(f"the file is {coding}, not UTF-8", str(path), f"iconv -f {coding} -t UTF-8 {path} > new.json")
    if data.startswith(PACKED):
        raise UserError("the file is compressed", str(path), "unpack it and name the .json or .jsonl inside")
    if data.startswith(b"PAR1"):
        raise UserError("the file is Parquet", str(path), f"name the folder that holds it: {path.parent}")
    # Invalid bytes become lone surrogates: they cost the rows that hold them, not the file.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
    at = _skip(text, 0)
    if at == len(text):
        raise UserError("the file is empty", str(path), "it needs rows of instruction, input and output")
    if text.startswith("[", at):
        yield from _array(text, at, path)
    elif text.startswith("{", at):
        yield from _lines(text, at, path)
    else:
        raise UserError(
            f"neither JSON nor JSONL: it begins with {text[at : at + 20]!r}", f"{path}:{_line_of(text, at)}",
            "the file must hold an array of rows, or one row a line",
        )  # fmt: skip


def _other_coding(data: bytes) -> str:
    """Name of a Unicode coding that is not UTF-8: told by its mark, or by the zero beside the first ASCII sign."""
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    first = data[:2]
    if len(first) == 2 and first.count(0) == 1:
        return "UTF-16LE" if first[1] == 0 else "UTF-16BE"
    return ""


def _skip(text: str, at: int) -> int:
    """The next position that is not white space in JSON's sense."""
    found = SPACE.match(text, at)
    return found.end() if found else at


def _line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _array(text: str, start: int, path: Path) -> Iterator[Raw]:
    """Rows of a JSON array one by one, so that each knows its line."""
    at, line, counted, number = start + 1, 1, 0, 0
    while True:
        at = _skip(text, at)
        line += text.count("\n", counted, at)
        counted = at
        if text.startswith("]", at):
            break
        number += 1
        try:
            value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _broken(text, at, error, path, number) from None
        yield Raw(value, f"{path}:{line} (row {number})")
        at = _skip(text, end)
        if text.startswith(",", at):
            at += 1
        elif not text.startswith("]", at):
            said = f"expected , or ] after row {number}, found {text[at : at + 1]!r}"
            if at >= len(text):
                said = f"the file ends in the middle, after row {number}"
            raise UserError(said, f"{path}:{_line_of(text, at)}", "mend that place, or fetch the file again")
    if rest := text[at + 1 :].strip():
        raise UserError(
            f"something follows the array: {rest[:20]!r}", f"{path}:{_line_of(text, _skip(text, at + 1))}",
            "keep one JSON array in the file",
        )  # fmt: skip
    if number == 0:
        raise UserError("the array is empty", str(path), "it needs rows of instruction, input and output")


def _broken(text: str, at: int, error: Exception, path: Path, number: int) -> UserError:
    """What is wrong with the array's row that begins at `at`; where such a row ends cannot be known."""
    if isinstance(error, json.JSONDecodeError):
        said = f"not valid JSON: {error.msg}"
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            said = f"the file ends in the middle of row {number}"
        place = f"{path}:{error.lineno}:{error.colno}, row {number}"
        return UserError(said, place, "mend that place, or fetch the file again")
    return UserError(_reason(error), f"{path}:{_line_of(text, at)}, row {number}", "mend or delete that row")


def _reason(error: Exception) -> str:
    """Why a row could not be parsed."""
    if isinstance(error, RecursionError):
        return "not readable JSON: brackets are nested too deeply"
    return f"not valid JSON: {getattr(error, 'msg', error)}"


def _lines(text: str, start: int, path: Path) -> Iterator[Raw]:
    """Rows of a JSONL file. A file that is one JSON object over several lines is refused as what it is."""
    _refuse_object(text, start, path)
    # Only \n ends a line: splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            yield Raw(DECODER.decode(line), place)
        except (ValueError, RecursionError) as error:
            yield Raw(None, place, _reason(error))


def _refuse_object(text: str, start: int, path: Path) -> None:
    try:
        whole, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return  # the first line is a bad row
    alone = _skip(text, end) == len(text)
    inside = [key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if "\n" not in text[start:end] and not (alone and inside):
        return
    place = f"{path}:{_line_of(text, start)}"
    if not alone:
        raise UserError("JSON objects over several lines each, with no array around them", place,
                        "put the rows between [ and ] with commas, or each row on one line")  # fmt: skip
    keys = ", ".join(repr(key[:40]) for key in list(whole)[:5])
    fix = f"keep the list under {inside[0]!r} and save that as the file" if inside else "put the rows between [ and ]"
    raise UserError(f"a JSON object instead of an array of rows (its keys: {keys})", place, fix)


def _datasets(path: str, kind: str) -> Iterator[Raw]:
    """Rows of a hub data set, or of a local folder of the same shape, through the `datasets` library."""
    import datasets

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(path, split="train")
    except Exception as error:  # the library raises some twenty kinds; all of them mean that it cannot be had
        said = " ".join(str(error).split())[:300]
        fix = (
            "check the id and the network, or download it and give the file's path"
            if kind == "hub"
            else "the folder must hold data files that `datasets.load_dataset` reads, with a train split"
        )
        raise UserError(f"cannot load the data set {path!r}: {said}", "data.sources", fix) from None
    for i, row in enumerate(loaded):
        yield Raw(row, f"{path}, row {i + 1}")
