"""Reads the questions of benchmarks: ARC, HellaSwag, MMLU, TruthfulQA, KoBEST, and lists of the user's own.

A file is recognised by its content: JSON, JSONL, CSV or TSV, or text with one question a line; each may be compressed.
JSON and CSV are parsed by the readers of sources. Only here: the fields of the benchmarks, their choices, MMLU's files
without a header, and one question a line.
"""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import Benchmark
from pipeline.dataset.read import csv_rows, json_rows
from pipeline.dataset.read.compressed import CHUNK, Damaged, Stream, opened
from pipeline.dataset.read.row import RawRow
from pipeline.run.encoding import decoded
from pipeline.run.errors import UserError
from pipeline.run.json_file import json_or_none
from pipeline.run.nearest import nearest_file

QUESTION_FIELDS = ("instruction", "question", "prompt", "query", "ctx", "sentence", "text", "q")
PREFIX = re.compile(r"^\s*(?:Question|Q)\s*:\s*")
SUFFIX = re.compile(r"\s*\n(?:Answer|A)\s*:\s*$")
WILDCARD = re.compile(r"[*?\[]")
TABLE_SUFFIXES = (".csv", ".tsv")
LONGEST_CELL = 1 << 17  # characters: a longer one is a quotation mark that is never closed
MMLU_HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
FIX = "fix or delete that row"


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion:
    """A question of a benchmark. choices: the answers it offers, the right one first if the file says which it is."""

    benchmark: str
    text: str
    place: str
    choices: tuple[str, ...] = ()


def read_all(benchmarks: Sequence[Benchmark]) -> list[BenchmarkQuestion]:
    """The questions of all benchmarks, in order.

    Raises:
        UserError: a file is missing, unreadable, empty or without questions, or two benchmarks have one name.
    """
    names = [name_of(benchmark) for benchmark in benchmarks]
    if twice := [name for name in names if names.count(name) > 1]:
        fix = "give one of them a different name: {path: ..., name: ...}"
        raise UserError(f"two benchmarks are called {twice[0]!r}", "data.benchmarks", fix)
    return [question for benchmark in benchmarks for question in read(benchmark)]


def read(benchmark: Benchmark) -> list[BenchmarkQuestion]:
    """The questions of one benchmark, which may be several files, in the order of their names.

    Raises:
        UserError: as `read_all`.
    """
    name = name_of(benchmark)
    questions: list[BenchmarkQuestion] = []
    for path in files_of(benchmark.path):
        before = len(questions)
        for place, row in rows(path, benchmark.field):
            for text, choices in _questions(row, benchmark.field, place):
                questions.append(BenchmarkQuestion(name, text, place, choices))
        if len(questions) == before:
            raise UserError("the file holds no questions", str(path), "fetch it again, or take it out of the list")
    return questions


def name_of(benchmark: Benchmark) -> str:
    """Its name in reports: `name`, or the file's, or for a glob the folder's."""
    if benchmark.name:
        return benchmark.name
    path = Path(benchmark.path)
    if WILDCARD.search(path.name) and not os.path.exists(path):
        return path.parent.name or WILDCARD.sub("", path.name).strip("_-.") or "questions"
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
    if paths := [Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]:
        return paths
    fix = nearest_file(Path(pattern), "give the path of a file, or a glob that finds some")
    raise UserError(f"no such benchmark file: {pattern}", "data.benchmarks", fix)


def rows(path: Path, field: str = "") -> Iterator[tuple[str, Any]]:
    """Place (`file:line`) and value of each row of a file: an object, or a text. field: a column of a CSV.

    Raises:
        UserError: the file cannot be read, or a row of it.
    """
    text = _text(path)
    start = text.lstrip()[:1]
    is_jsonl = start in ("{", '"') and json_or_none(text.lstrip().split("\n", 1)[0]) is not None
    whole = json_or_none(text) if start == "{" and not is_jsonl else None
    if not start:
        raise UserError("the file is empty", str(path), "it needs questions: JSON, JSONL, CSV, or one a line")
    if start == "[":
        yield from _values(json_rows.array(_stream(text), str(path), 1))
    elif whole is not None:
        for number, row in enumerate(_only_list(whole, path), 1):
            yield f"{path}, row {number}", row
    elif is_jsonl or start == "{":
        yield from _values(json_rows.parsed_lines(_stream(text), str(path), 1))
    elif (table := _table(text, path, field)) is not None:
        yield from table
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", line.strip()


def _text(path: Path) -> str:
    """The file as text: benchmarks are small, and a question that is not UTF-8 stops the run."""
    try:
        with opened(path) as stream:
            data = stream.read()
    except Damaged as error:
        raise UserError(str(error), str(path), "fetch the file again") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", str(path), "check the file's rights") from None
    return decoded(data, str(path))


def _stream(text: str) -> Stream:
    return io.BufferedReader(io.BytesIO(text.encode()), CHUNK)


def _values(rows: Iterable[RawRow]) -> Iterator[tuple[str, Any]]:
    for row in rows:
        if row.error and row.rule != "duplicate-key":  # the last of the values is read
            raise UserError(row.error, row.place, FIX)
        yield row.place, row.value


def _only_list(whole: Mapping[str, Any], path: Path) -> list[Any]:
    """The list of questions in a file that is one JSON object."""
    lists = [value for value in whole.values() if isinstance(value, list) and value]
    if len(lists) != 1:
        keys = ", ".join(repr(key) for key in list(whole)[:8])
        what = f"one JSON object, where a list of questions was expected (its keys: {keys})"
        raise UserError(what, str(path), "save the list alone")
    return lists[0]


def _table(text: str, path: Path, field: str) -> list[tuple[str, Any]] | None:
    """Rows of a CSV or TSV file; None if the text is not a table. MMLU as first published has no header."""
    delimiter = "\t" if "\t" in text.lstrip().split("\n", 1)[0] else ","
    is_table = path.name.lower().removesuffix(".gz").endswith(TABLE_SUFFIXES)
    try:
        records = list(csv_rows.records(_stream(text), str(path), 1, delimiter, strict=False, longest=LONGEST_CELL))
    except UserError:
        if not is_table:
            return None
        raise
    table = [(place, cells) for place, cells, _ in records if any(cell.strip() for cell in cells)]
    if not table:
        return None
    header = [cell.strip() for cell in table[0][1]]
    if len(header) == 6 and all(len(cells) == 6 and cells[5].strip() in ("A", "B", "C", "D") for _, cells in table):
        header, table = MMLU_HEADER, [table[0], *table]
    elif not (is_table or (len(header) > 1 and _has_question(header, field))):
        return None
    return [(place, dict(zip(header, cells, strict=False))) for place, cells in table[1:]]


def _has_question(header: Sequence[str], field: str) -> bool:
    names = {cell.lower() for cell in header}
    return field in header or bool(names & {*QUESTION_FIELDS, "premise", "context", "context_1"})


def _questions(row: Any, field: str, place: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Questions and choices of one row: one, or as many as there are `instances`."""
    choices: tuple[str, ...] = ()
    if isinstance(row, str):
        text, inputs = row, [""]
    elif isinstance(row, Mapping):
        low = {str(key).strip().lower(): value for key, value in row.items()}
        text, inputs = _question(row, low, field, place)
        choices = choices if field else _choices(low)
    else:
        raise UserError(f"a question is a text or an object, this is {str(row)[:40]!r}", place, FIX)
    for more in inputs:
        whole = "\n".join(block for block in (text, more) if block.strip())
        if not whole.strip():
            raise UserError("the question is empty", place, FIX)
        yield whole, choices


def _question(row: Mapping[str, Any], low: Mapping[str, Any], field: str, place: str) -> tuple[str, list[str]]:
    """The question's text, and the inputs below it (one empty text for none)."""
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
        value = next((low[name] for name in QUESTION_FIELDS if name in low), None)
        if isinstance(low.get("instances"), list):
            inputs = [_input(each) for each in low["instances"]] or [""]
        elif "instruction" in low:
            inputs = [_input(low)]
    if not isinstance(value, str):
        fields = ", ".join(repr(str(key)[:40]) for key in list(row)[:12]) or "none"
        what = f"no field {field!r}" if field else "no field with a question"
        raise UserError(
            f"{what} (fields: {fields})", place, "name the right one: data.benchmarks=[{path: ..., field: NAME}]"
        )
    return SUFFIX.sub("", PREFIX.sub("", value)), inputs


def _input(row: Any) -> str:
    value = row.get("input") if isinstance(row, Mapping) else None
    return value if isinstance(value, str) else ""


def _choices(low: Mapping[str, Any]) -> tuple[str, ...]:
    """The answers offered, the right one first if it is known."""
    listed = low.get("choices", low.get("endings", low.get("options")))
    labels: Sequence[Any] = "ABCDEFGH"
    if isinstance(listed, Mapping):  # ARC on the hub: {text: [...], label: [...]}
        labels, listed = listed.get("label") or labels, listed.get("text")
    if not isinstance(listed, list):
        keys = [k for k in low if re.fullmatch(r"[a-h]|(choice|ending_|alternative_|option_?)\w", k)]
        listed = [low[key] for key in keys]
    if not listed:
        best = low.get("best answer", low.get("best_answer"))
        listed = [best, *_answers(low, "correct"), *_answers(low, "incorrect")]
        return tuple(dict.fromkeys(text for text in listed if isinstance(text, str) and text.strip()))
    texts = [str(text) for text in listed]
    right = next((low[key] for key in ("gold", "answer", "answerkey", "label") if key in low), None)
    at = _position(right, labels, len(texts))
    if at is not None:
        texts.insert(0, texts.pop(at))
    return tuple(text for text in texts if text.strip())


def _position(right: Any, labels: Sequence[Any], count: int) -> int | None:
    """The index of the right choice, given as a label such as B or as a number from 0; None if unknown."""
    named = [str(label) for label in labels][:count]
    if str(right) in named:
        return named.index(str(right))
    at = int(right) if str(right).strip().isdecimal() else -1
    return at if 0 <= at < count else None


def _answers(low: Mapping[str, Any], kind: str) -> list[str]:
    """TruthfulQA's answers: one text with `;` between them in the CSV, a list on the hub."""
    value = low.get(f"{kind} answers", low.get(f"{kind}_answers"))
    return value if isinstance(value, list) else [answer.strip() for answer in str(value or "").split(";")]
