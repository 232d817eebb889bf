"""Reads a source into raw rows, each with the place it came from.

A file is recognised by its content, not by its name: `[` opens a JSON array, `{` a line of JSONL. What is wrong with
one row stays with that row; only what makes the whole file unreadable stops the run.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Source
from pipeline.dataset.families import generate
from pipeline.errors import UserError

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
UTF16 = (b"\xff\xfe", b"\xfe\xff")


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
    if path.is_file():
        return "file"
    if path.is_dir():
        return "folder"
    if HUB_ID.match(source.path) and path.suffix not in (".json", ".jsonl") and not path.parent.is_dir():
        return "hub"
    near = (
        difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], 1) if path.parent.is_dir() else []
    )
    fix = (
        f"did you mean {path.parent / near[0]}?"
        if near
        else "give a .json or .jsonl file, a folder, or a hub id such as tatsu-lab/alpaca"
    )
    raise UserError(f"no such data file: {source.path}", "data.sources", fix)


def read(source: Source, seed: int) -> Iterator[Raw]:
    """The rows of a source in their order.

    Raises:
        UserError: the source as a whole cannot be read.
    """
    kind = kind_of(source)
    if kind == "families":
        for i, row in enumerate(generate(source.rows or 0, seed)):
            yield Raw(row, f"families:{i + 1}")
    elif kind == "file":
        yield from _file(Path(source.path))
    else:
        yield from _datasets(source.path, kind)


def _file(path: Path) -> Iterator[Raw]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(path), "check the file's rights") from None
    if data.startswith(UTF16) or b"\x00" in data[:4]:
        raise UserError("the file is UTF-16, not UTF-8", str(path), f"iconv -f UTF-16 -t UTF-8 {path} > new.json")
    if data.startswith(b"\x1f\x8b") or data.startswith(b"PK"):
        raise UserError("the file is compressed", str(path), "unpack it and name the .json or .jsonl inside")
    # Invalid bytes become lone surrogates: they cost the rows that hold them, not the file.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
    if not text.strip():
        raise UserError("the file is empty", str(path), "it needs rows of instruction, input and output")
    first = text.lstrip()[0]
    if first == "[":
        yield from _array(text, path)
    elif first == "{":
        yield from _lines(text, path)
    else:
        raise UserError(
            f"neither JSON nor JSONL: it begins with {text.lstrip()[:20]!r}", f"{path}:1",
            "the file must hold an array of rows, or one row a line",
        )  # fmt: skip


def _array(text: str, path: Path) -> Iterator[Raw]:
    """Rows of a JSON array one by one, so that each knows its line."""
    decoder = json.JSONDecoder()
    space = re.compile(r"[ \t\n\r]*")
    at = space.match(text).end() + 1  # type: ignore[union-attr]  # behind the [
    line, counted, number = 1, 0, 0
    while True:
        at = space.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", counted, at)
        counted = at
        if text.startswith("]", at):
            break
        number += 1
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            whole = "the file ends in the middle" if error.pos >= len(text.rstrip()) else f"not valid JSON: {error.msg}"
            raise UserError(
                whole, f"{path}:{error.lineno}:{error.colno}, row {number}", "mend that place, or fetch the file again"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"not readable JSON: {error}", f"{path}:{line}, row {number}", "mend or delete that row"
            ) from None
        yield Raw(value, f"{path}:{line} (row {number})")
        at = space.match(text, end).end()  # type: ignore[union-attr]
        if text.startswith(",", at):
            at += 1
        elif not text.startswith("]", at):
            said = (
                "the file ends in the middle"
                if at >= len(text)
                else f"expected , or ] after row {number}, found {text[at]!r}"
            )
            raise UserError(
                said, f"{path}:{text.count(chr(10), 0, at) + 1}", "mend that place, or fetch the file again"
            )
    rest = text[at + 1 :].strip()
    if rest:
        raise UserError(
            f"something follows the array: {rest[:20]!r}", f"{path}:{line}", "keep one JSON array in the file"
        )
    if number == 0:
        raise UserError("the array is empty", str(path), "it needs rows of instruction, input and output")


def _lines(text: str, path: Path) -> Iterator[Raw]:
    """Rows of a JSONL file. A file that is one JSON object over several lines is refused as what it is."""
    good = bad = 0
    first_error = ""
    held: list[Raw] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            raw = Raw(json.loads(line), place)
            good += 1
        except (ValueError, RecursionError) as error:
            said = getattr(error, "msg", str(error))
            raw = Raw(None, place, f"not valid JSON: {said}")
            first_error = first_error or f"{place}: {said}"
            bad += 1
        if good:
            yield from held
            held.clear()
            yield raw
        else:
            held.append(raw)
    if good:
        if good == 1 and not bad and isinstance(whole := json.loads(text), dict) and "instruction" not in whole:
            raise _object(whole, path)
        return
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(
            f"no line of it is valid JSON (first: {first_error})", str(path), "one JSON object a line, or one array"
        ) from None
    raise _object(whole, path)


def _object(whole: dict[str, Any], path: Path) -> UserError:
    inside = [k for k, v in whole.items() if isinstance(v, list)]
    fix = f"keep the list under {inside[0]!r} and save that as the file" if inside else "put the rows between [ and ]"
    keys = ", ".join(list(whole)[:5])
    return UserError(f"a JSON object instead of an array of rows (its keys: {keys})", f"{path}:1", fix)


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
