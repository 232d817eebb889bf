"""The files of the data stage while they grow, and the counts that go along."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.config.schema import Data, Source
from pipeline.dataset.chunk import EXAMPLES, Result, Work, chunks
from pipeline.dataset.engine import Engine
from pipeline.dataset.ledger import Ledger, Line
from pipeline.dataset.read.benchmark import BenchmarkQuestion
from pipeline.dataset.read.columnar import is_columnar
from pipeline.dataset.read.compressed import compression_of
from pipeline.dataset.read.row import Rejected
from pipeline.dataset.read.source import files_of
from pipeline.dataset.select.contamination import METHOD, Coverage
from pipeline.dataset.select.decide import KINDS
from pipeline.dataset.select.split import PARTS
from pipeline.dataset.summary import Summary, shortened
from pipeline.run.errors import UserError
from pipeline.run.files import json_text, need_space
from pipeline.run.progress import bar, say

CLUSTERS = 10  # largest clusters in the report
HITS = 50  # of one benchmark in the report


class Writer:
    """The files of the stage while they grow."""

    def __init__(self, folder: Path, data: Data) -> None:
        self.folder, self.data = folder, data
        self.summary = Summary(data)
        self.lines: Counter[str] = Counter()  # written, by file
        self.repeats = 0  # lines of train.jsonl beyond one for each row

    def __enter__(self) -> Writer:
        self._open = contextlib.ExitStack()
        self._spool = self.folder / ".rows"
        self.ledger = Ledger(self._spool)
        self._open.callback(self._spool.unlink)
        self._open.callback(self.ledger.close)
        names = (*PARTS, "rejected", "changes", "duplicates", "contaminated")
        self._files: dict[str, IO[bytes]] = {
            name: self._open.enter_context(open(self.folder / f"{name}.jsonl", "wb"))  # noqa: SIM115
            for name in names
        }
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def read(self, number: int, work: Work, workers: Engine) -> None:
        """Passes one source through the work on rows.

        Raises:
            UserError: none of its rows is left.
        """
        source, label = self.data.sources[number], self.summary.labels[number]
        before, whole = len(self.ledger), 0
        pieces = chunks(number, source, self.data.seed)
        with bar(what=f"reading {Path(source.path).name}", total=source.rows) as progress:
            for result in workers.map(work, pieces):
                self.ledger.add(result)
                self.summary.add(result)
                for change in result.changes:
                    self._put("changes", change)
                whole += int(result.kept.sum())
                if progress.total is None:
                    progress.total = _expected(source, result)
                progress.update(len(result.lines))
        read = len(self.ledger) - before
        if not whole:
            said, fix = _nothing_left(self.summary, number)
            raise UserError(said, label, fix)
        say(f"data: {label}: {read:,} rows read, {read - whole:,} rejected by checks and rules")

    def write(self, parts: dict[int, str]) -> None:
        """Every row goes into the file of its part, or of the rejected ones.

        Raises:
            UserError: what `repeat` makes of the training rows does not fit on the disk.
        """
        self._check_space(parts)
        for line, row in bar(self.ledger.lines(), total=len(self.ledger), what="writing rows"):
            source = self.ledger.sources[line.at]
            if row < 0:
                self._raw("rejected", line.text)
            elif row in parts:
                self._keep(parts[row], line, row, source)
            else:
                fate = self.ledger.fates[row]
                rejected = Rejected(fate.rule, fate.reason, line.place, self.summary.labels[source], line.row)
                self._put("rejected", rejected.as_dict())
                self.summary.drop(rejected.as_dict(), source)

    def _check_space(self, parts: dict[int, str]) -> None:
        repeats = [source.repeat for source in self.data.sources]
        if max(repeats) == 1:
            return
        times = {row: repeats[self.ledger.source_of(row)] for row, part in parts.items() if part == "train"}
        needed = sum(self.ledger.size(row) * n for row, n in times.items())
        need_space(self.folder, needed, f"train.jsonl with {sum(times.values()):,} rows, repeats counted,")

    def _keep(self, part: str, line: Line, row: int, source: int) -> None:
        f = self.ledger.features
        times = self.data.sources[source].repeat if part == "train" else 1
        for _ in range(times):
            self._raw(part, line.text)
        self.repeats += times - 1
        self.summary.keep(part, source, f.languages[row], f.tasks[row], bool(f.inputs[row]))

    def duplicates(self) -> dict[str, Any]:
        """Writes duplicates.jsonl, each kept row with those dropped for it; returns counts and the largest clusters."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for row, fate in self.ledger.fates.items():
            if fate.like >= 0:
                members[self.ledger.kept_like(row)].append(row)
        for kept in sorted(members):
            self._write_cluster(kept, members[kept])
        largest = sorted(members, key=lambda kept: (-len(members[kept]), kept))[:CLUSTERS]
        shown = [{"size": 1 + len(members[kept]), **self._cluster(kept, members[kept][:EXAMPLES])} for kept in largest]
        return {
            **{kind: self.summary.count(rule=rule) for rule, kind in KINDS.items()}, "clusters": len(members),
            "thresholds": self.data.duplicates.model_dump(), "largest": shortened(shown),
        }  # fmt: skip

    def _write_cluster(self, kept: int, rows: list[int]) -> None:
        """One line, row by row: a cluster can be larger than memory."""
        file = self._files["duplicates"]
        file.write(b'{"kept": ' + _encoded(json_text(self._shown(kept))) + b', "rows": [')
        for n, row in enumerate(sorted(rows)):
            file.write((b", " if n else b"") + _encoded(json_text(self._dropped(row))))
        file.write(b"]}\n")

    def _cluster(self, kept: int, rows: list[int]) -> dict[str, Any]:
        return {"kept": self._shown(kept), "rows": [self._dropped(row) for row in sorted(rows)]}

    def _shown(self, row: int) -> dict[str, Any]:
        line = self.ledger.line(row)
        found = line.row
        return {"id": found["id"], "place": line.place, "source": found["source"],
                **{name: found[name] for name in ("instruction", "input", "output")}}  # fmt: skip

    def _dropped(self, row: int) -> dict[str, Any]:
        fate = self.ledger.fates[row]
        found = self._shown(row)
        of = {} if fate.like == self.ledger.kept_like(row) else {"through": self.ledger.line(fate.like).place}
        return {"place": found["place"], "source": found["source"], "kind": KINDS[fate.rule],
                "similarity": round(fate.similarity, 4), **of, "row": found}  # fmt: skip

    def contamination(self, questions: Sequence[BenchmarkQuestion], coverage: Sequence[Coverage]) -> dict[str, Any]:
        """Writes contaminated.jsonl: each row that holds a question, with the question; returns the table."""
        benchmarks = [
            {"name": c.benchmark, "questions": c.questions, "checkable": c.alone + c.with_answer, "alone": c.alone,
             "with_answer": c.with_answer, "unchecked": c.unchecked}
            for c in coverage
        ]  # fmt: skip
        table = {c.benchmark: dict.fromkeys(self.summary.labels, 0) for c in coverage}
        examples: dict[str, list[dict[str, Any]]] = {name: [] for name in table}
        for row, hits in enumerate(self.ledger.features.hits or []):
            for hit in hits:
                question, shown = questions[hit.question], self._shown(row)
                table[question.benchmark][shown["source"]] += 1
                found = {
                    "benchmark": question.benchmark, "question": question.text, "question_place": question.place,
                    "place": shown["place"], "source": shown["source"], "score": round(hit.score, 4), "row": shown,
                }  # fmt: skip
                self._put("contaminated", found)
                if len(examples[question.benchmark]) < HITS:
                    examples[question.benchmark].append(shortened(found))
        return {"method": METHOD, "benchmarks": benchmarks, "table": table,
                "examples": [hit for few in examples.values() for hit in few]}  # fmt: skip

    def _put(self, name: str, row: dict[str, Any]) -> None:
        self._raw(name, json_text(row, default=str))

    def _raw(self, name: str, text: str) -> None:
        self._files[name].write(_encoded(text) + b"\n")
        self.lines[name] += 1


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _expected(source: Source, first: Result) -> int | None:
    """About how many rows the source has, judged by its size and its first rows; None where that cannot be told."""
    files = files_of(source)
    added = len(first.lines) * (len(source.path) * 2 + 150)  # place, id and so on, which the file does not have
    size = (sum(len(line) for line in first.lines) - added) / max(len(first.lines), 1)
    if not files or size < 1 or any(map(_is_dense, files)):
        return None
    return max(round(sum(path.stat().st_size for path in files) / size), len(first.lines))


def _is_dense(path: Path) -> bool:
    """Whether a file's size says little about the text in it: packed, Parquet, Arrow."""
    with open(path, "rb") as file:
        head = file.read(16)
    return bool(compression_of(head)) or is_columnar(head)


def _nothing_left(summary: Summary, number: int) -> tuple[str, str]:
    """Why a source gave no row at all, and the cure for the commonest reason."""
    counts = {
        rule: n for (rule, action, source), n in summary.counts.items() if action == "rejected" and source == number
    }
    if not counts:
        return "the source has no rows", "it needs rows of instruction, input (optional) and output"
    order = sorted(counts, key=lambda rule: (-counts[rule], rule))
    first = {rule: summary.examples[rule][0] for rule in order}
    said = "; ".join(f"{counts[rule]:,} x {first[rule]['reason']}" for rule in order[:3])
    cures = {
        "not-json": "write one JSON object a line, or one array of objects",
        "invalid-utf-8": "save the file as UTF-8; Korean files are often CP949: iconv -f CP949 -t UTF-8 old > new",
        "output-empty": 'write answers, or keep empty ones with data.rules="{output-empty: off}"',
        "instruction-empty": "write instructions",
        "instruction-missing": "say which field it is: columns: {instruction: NAME, output: NAME}",
        "output-missing": "say which field it is: columns: {instruction: NAME, output: NAME}",
        "field-not-used": "say which field is which: columns: {instruction: NAME, input: NAME, output: NAME}",
        "text-only": "cut each text into a question and its answer first",
        "duplicate-key": "give each field of an object once",
        "no-answer": "each question needs an answer of the assistant after it",
        "ragged": "put quotes around cells that hold the separator or a line break",
    }
    fix = cures.get(order[0], "each row is an object with the texts instruction, input (optional) and output")
    total = sum(counts.values())
    return f"every one of the {total:,} rows was rejected ({said}; first: {first[order[0]]['place']})", fix
