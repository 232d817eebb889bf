"""Reads the questions of benchmarks: ARC, HellaSwag, MMLU, TruthfulQA, KoBEST, and lists that people bring.

A file is recognised by its content: JSON, JSONL, CSV or TSV, or text with one question a line, plain or packed; its
form by the names of its fields.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import Benchmark
from pipeline.dataset.read.compressed import Damaged, opened
from pipeline.run.encoding import decoded
from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest_file

PLAIN_FIELDS = ("instruction", "question", "prompt", "query", "ctx", "sentence", "text", "q")
PREFIX = re.compile(r"^\s*(?:Question|Q)\s*:\s*")
SUFFIX = re.compile(r"\s*\n(?:Answer|A)\s*:\s*$")
WILD = re.compile(r"[*?\[]")
SHEET = (".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class Question:
    """A test question. `choices` are the answers it offers, the right one first where the file says which it is."""

    benchmark: str
    text: str
    place: str
    choices: tuple[str, ...] = ()


def read_all(benchmarks: Sequence[Benchmark]) -> list[Question]:
    """The questions of all benchmarks, in order.

    Raises:
        UserError: a file is missing, unreadable, empty or without questions, or two benchmarks have one name.
    """
    names = [name_of(benchmark) for benchmark in benchmarks]
    if twice := [name for name in names if names.count(name) > 1]:
        fix = "give one of them a name of its own: {path: ..., name: ...}"
        raise UserError(f"two benchmarks are called {twice[0]!r}", "data.benchmarks", fix)
    return [question for benchmark in benchmarks for question in read(benchmark)]


def read(benchmark: Benchmark) -> list[Question]:
    """The questions of one benchmark, which may be several files, in the order of their names.

    Raises:
        UserError: as `read_all`.
    """
    name = name_of(benchmark)
    questions: list[Question] = []
    for path in files_of(benchmark.path):
        before = len(questions)
        for place, row in rows(path, benchmark.field):
            for text, choices in _asked(row, benchmark.field, place):
                questions.append(Question(name, text, place, choices))
        if len(questions) == before:
            raise UserError("the file holds no questions", str(path), "fetch it again, or take it out of the list")
    return questions


def name_of(benchmark: Benchmark) -> str:
    """How reports call it: its `name`, or the file's, or for a glob the folder's."""
    if benchmark.name:
        return benchmark.name
    path = Path(benchmark.path)
    if WILD.search(path.name) and not os.path.exists(path):
        return path.parent.name or WILD.sub("", path.name).strip("_-.") or "questions"
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def files_of(pattern: str) -> list[Path]:
    """The files of a path or glob, by name.

    Raises:
        UserError: there is none.
    """
    if os.path.isdir(pattern):
        raise UserError(f"a folder, not a file: {pattern}", "data.benchmarks", f"name its files: {pattern}/*.csv")
    if os.path.isfile(pattern):
        return [Path(pattern)]
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]
    if found:
        return found
    fix = nearest_file(Path(pattern), "give the path of a file, or a glob that finds some")
    raise UserError(f"no such benchmark file: {pattern}", "data.benchmarks", fix)


def rows(path: Path, field: str = "") -> Iterator[tuple[str, Any]]:
    """Place (`file:line`) and value of each row of a file: an object, or a text. field: a column of a CSV.

    Raises:
        UserError: the file cannot be read, or a row of it.
    """
    text = _text(path)
    start = text.lstrip()[:1]
    if not start:
        raise UserError("the file is empty", str(path), "it needs questions: JSON, JSONL, CSV, or one a line")
    if start == "[":
        for number, row in enumerate(_json(text, path), 1):
            yield f"{path}, row {number}", row
    elif start == "{" or (start == '"' and _is_json(text.lstrip().split("\n", 1)[0])):
        yield from _lines(text, path)
    elif (rows := _sheet(text, path, field)) is not None:
        yield from rows
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", line.strip()


def _text(path: Path) -> str:
    try:
        with opened(path) as stream:
            data = stream.read()
    except Damaged as error:
        raise UserError(str(error), str(path), "fetch the file again") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", str(path), "check the file's rights") from None
    return decoded(data, str(path))


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        said = getattr(error, "msg", "brackets are nested too deeply")
        fix = "mend that place, or fetch the file again"
        raise UserError(f"not valid JSON: {said}", f"{path}:{line}", fix) from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """JSONL, or one object with the list of questions in it."""
    if not _is_json(text.lstrip().split("\n", 1)[0]) and _is_json(text):
        whole = json.loads(text)
        lists = [value for value in whole.values() if isinstance(value, list) and value]
        if len(lists) != 1:
            keys = ", ".join(repr(key) for key in list(whole)[:8])
            raise UserError(f"one JSON object, where a list of questions was expected (its keys: {keys})", str(path),
                            "save the list alone")  # fmt: skip
        for number, row in enumerate(lists[0], 1):
            yield f"{path}, row {number}", row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                said = getattr(error, "msg", "brackets are nested too deeply")
                fix = "mend or delete that line"
                raise UserError(f"not valid JSON: {said}", f"{path}:{number}", fix) from None
            yield f"{path}:{number}", row


def _sheet(text: str, path: Path, field: str) -> list[tuple[str, Any]] | None:
    """Rows of a CSV or TSV file; None where the text is none. MMLU as first published has no header line."""
    head = text.lstrip().split("\n", 1)[0]
    mark = "\t" if "\t" in head else ","
    named = path.name.lower().removesuffix(".gz").endswith(SHEET)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=False)
    rows: list[tuple[str, list[str]]] = []
    before = 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((f"{path}:{before + 1}", row))
            before = reader.line_num
    except csv.Error as error:
        if not named:
            return None
        fix = "look for an open quotation mark above that line"
        raise UserError(f"not valid CSV: {error}", f"{path}:{reader.line_num}", fix) from None
    header = [cell.strip() for cell in rows[0][1]]
    if len(header) == 6 and all(len(row) == 6 and row[5].strip() in ("A", "B", "C", "D") for _, row in rows):
        header, rows = ["question", "choice0", "choice1", "choice2", "choice3", "answer"], [rows[0], *rows]
    elif not (named or (len(header) > 1 and _known(header, field))):
        return None
    return [(place, dict(zip(header, row, strict=False))) for place, row in rows[1:]]


def _known(header: Sequence[str], field: str) -> bool:
    names = {cell.lower() for cell in header}
    return field in header or bool(names & {*PLAIN_FIELDS, "premise", "context", "context_1"})


def _asked(row: Any, field: str, place: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Questions and choices of one row: one, or as many as there are `instances`."""
    choices: tuple[str, ...] = ()
    if isinstance(row, str):
        text, inputs = row, [""]
    elif isinstance(row, Mapping):
        low = {str(key).strip().lower(): value for key, value in row.items()}
        text, inputs = _question(row, low, field, place)
        choices = choices if field else _choices(low)
    else:
        said = f"a question is a text or an object, this is {str(row)[:40]!r}"
        raise UserError(said, place, "mend or delete that row")
    for more in inputs:
        whole = "\n".join(part for part in (text, more) if part.strip())
        if not whole.strip():
            raise UserError("the question is empty", place, "mend or delete that row")
        yield whole, choices


def _question(row: Mapping[str, Any], low: Mapping[str, Any], field: str, place: str) -> tuple[str, list[str]]:
    """The question's text, and what stands under it, if anything."""
    inputs = [""]
    if field:
        value = row.get(field)
    elif "context_1" in low and "context_2" in low:  # KoBEST WiC: the pair is the question
        value = f"{low['context_1']}\n{low['context_2']}"
    elif "premise" in low:  # KoBEST COPA; its `question` is only the word for cause or effect
        value = low["premise"]
    elif "ctx" in low:
        value = low["ctx"]
    elif "context" in low and "ending_1" in low:  # KoBEST HellaSwag
        value = low["context"]
    else:
        value = next((low[name] for name in PLAIN_FIELDS if name in low), None)
        if isinstance(low.get("instances"), list):
            inputs = [_input(each) for each in low["instances"]] or [""]
        elif "instruction" in low:
            inputs = [_input(low)]
    if not isinstance(value, str):
        there = ", ".join(repr(str(key)[:40]) for key in list(row)[:12]) or "none"
        what = f"no field {field!r}" if field else "no field with a question"
        what += f" (fields: {there})"
        raise UserError(what, place, "name the right one: data.benchmarks=[{path: ..., field: NAME}]")
    return SUFFIX.sub("", PREFIX.sub("", value)), inputs


def _input(row: Any) -> str:
    value = row.get("input") if isinstance(row, Mapping) else None
    return value if isinstance(value, str) else ""


def _choices(low: Mapping[str, Any]) -> tuple[str, ...]:
    """The answers on offer, the right one first where it can be told."""
    listed = low.get("choices", low.get("endings", low.get("options")))
    labels: Sequence[Any] = "ABCDEFGH"
    if isinstance(listed, Mapping):  # ARC on the hub: {text: [...], label: [...]}
        labels, listed = listed.get("label") or labels, listed.get("text")
    if not isinstance(listed, list):
        keys = [k for k in low if re.fullmatch(r"[a-h]|(choice|ending_|alternative_|option_?)\w", k)]
        listed = [low[key] for key in keys]
    if not listed:
        best = low.get("best answer", low.get("best_answer"))
        listed = [best, *_parted(low, "correct"), *_parted(low, "incorrect")]
        return tuple(dict.fromkeys(text for text in listed if isinstance(text, str) and text.strip()))
    texts = [str(text) for text in listed]
    right = next((low[key] for key in ("gold", "answer", "answerkey", "label") if key in low), None)
    at = _position(right, labels, len(texts))
    if at is not None:
        texts.insert(0, texts.pop(at))
    return tuple(text for text in texts if text.strip())


def _position(right: Any, labels: Sequence[Any], count: int) -> int | None:
    """Where the right choice stands: a label such as B, or a number counted from 0."""
    named = [str(label) for label in labels][:count]
    if str(right) in named:
        return named.index(str(right))
    at = int(right) if str(right).strip().isdecimal() else -1
    return at if 0 <= at < count else None


def _parted(low: Mapping[str, Any], kind: str) -> list[str]:
    """TruthfulQA's answers: one text parted by `;` in the CSV, a list on the hub."""
    value = low.get(f"{kind} answers", low.get(f"{kind}_answers"))
    return value if isinstance(value, list) else [part.strip() for part in str(value or "").split(";")]
