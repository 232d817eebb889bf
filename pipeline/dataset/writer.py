"""Writes the files of the data stage: rows by split, rejected rows, changes, duplicates and contaminated rows."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.config.schema import Data
from pipeline.dataset.chunk import EXAMPLES
from pipeline.dataset.ledger import Ledger, StoredRow
from pipeline.dataset.read.benchmark import BenchmarkQuestion
from pipeline.dataset.read.row import Rejected
from pipeline.dataset.select.contamination import METHOD, Coverage
from pipeline.dataset.select.decide import KINDS
from pipeline.dataset.summary import Summary, shortened
from pipeline.run.files import json_text, need_space
from pipeline.run.folder import SPLITS
from pipeline.run.progress import bar

TEXTS = ("instruction", "input", "output", "system", "turns", "tools")  # what excerpts of a row show
CLUSTERS = 10  # largest clusters in the report
HITS = 50  # of one benchmark in the report


class Writer:
    """The open files of the stage. lines: written to each file. repeats: lines of train.jsonl beyond one a row."""

    def __init__(self, folder: Path, data: Data, ledger: Ledger, summary: Summary) -> None:
        self.folder, self.data, self.ledger, self.summary = folder, data, ledger, summary
        self.lines: Counter[str] = Counter()
        self.repeats = 0

    def __enter__(self) -> Writer:
        self._stack = contextlib.ExitStack()
        names = (*SPLITS, "rejected", "changes", "duplicates", "contaminated")
        self._files: dict[str, IO[bytes]] = {
            name: self._stack.enter_context(open(self.folder / f"{name}.jsonl", "wb"))  # noqa: SIM115
            for name in names
        }
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def write_change(self, change: Mapping[str, Any]) -> None:
        """A line of changes.jsonl: what a rule changed or flagged."""
        self._write("changes", change)

    def write_rows(self, splits: Mapping[int, str]) -> None:
        """Writes every row to the file of its split, or to rejected.jsonl. splits: by row.

        Raises:
            UserError: the training rows with their repeats do not fit on the disk.
        """
        self._check_space(splits)
        for stored, row in bar(self.ledger.all_stored(), total=len(self.ledger), what="writing rows"):
            source = self.ledger.sources[stored.at]
            if row < 0:
                self._write_line("rejected", stored.text)
            elif row in splits:
                self._write_example(splits[row], stored, row, source)
            else:
                drop = self.ledger.drops[row]
                rejected = Rejected(drop.rule, drop.reason, stored.place, self.summary.labels[source], stored.row)
                self._write("rejected", rejected.as_dict())
                self.summary.drop(rejected.as_dict(), source)

    def _check_space(self, splits: Mapping[int, str]) -> None:
        repeats = [source.repeat for source in self.data.sources]
        if max(repeats) == 1:
            return
        times = {row: repeats[self.ledger.source_of(row)] for row, split in splits.items() if split == "train"}
        size = sum(self.ledger.size(row) * n for row, n in times.items())
        need_space(self.folder, size, f"train.jsonl with {sum(times.values()):,} rows, repeats counted,")

    def _write_example(self, split: str, stored: StoredRow, row: int, source: int) -> None:
        features = self.ledger.features
        times = self.data.sources[source].repeat if split == "train" else 1
        for _ in range(times):
            self._write_line(split, stored.text)
        self.repeats += times - 1
        self.summary.keep(split, source, features.languages[row], features.tasks[row], bool(features.inputs[row]))
        if features.turns is not None:
            self.summary.keep_turns(*features.turns[row].tolist())

    def write_duplicates(self) -> dict[str, Any]:
        """Writes duplicates.jsonl: each kept row with those dropped for it. Returns counts and the largest clusters."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for row, drop in self.ledger.drops.items():
            if drop.like >= 0:
                members[self.ledger.kept_like(row)].append(row)
        for kept in sorted(members):
            self._write_cluster(kept, members[kept])
        largest = sorted(members, key=lambda kept: (-len(members[kept]), kept))[:CLUSTERS]
        clusters = []
        for kept in largest:
            rows = [self._duplicate(row) for row in sorted(members[kept][:EXAMPLES])]
            clusters.append({"size": 1 + len(members[kept]), "kept": self._excerpt(kept), "rows": rows})
        return {
            **{kind: self.summary.count(rule=rule) for rule, kind in KINDS.items()}, "clusters": len(members),
            "thresholds": self.data.duplicates.model_dump(), "largest": shortened(clusters),
        }  # fmt: skip

    def _write_cluster(self, kept: int, rows: list[int]) -> None:
        """One line, written row by row: a cluster can be larger than memory."""
        file = self._files["duplicates"]
        file.write(b'{"kept": ' + _encoded(json_text(self._excerpt(kept))) + b', "rows": [')
        for n, row in enumerate(sorted(rows)):
            file.write((b", " if n else b"") + _encoded(json_text(self._duplicate(row))))
        file.write(b"]}\n")

    def _excerpt(self, row: int) -> dict[str, Any]:
        stored = self.ledger.stored(row)
        values = stored.row
        return {"id": values["id"], "place": stored.place, "source": values["source"],
                **{name: values[name] for name in TEXTS if name in values}}  # fmt: skip

    def _duplicate(self, row: int) -> dict[str, Any]:
        drop = self.ledger.drops[row]
        excerpt = self._excerpt(row)
        through = {} if drop.like == self.ledger.kept_like(row) else {"through": self.ledger.stored(drop.like).place}
        return {"place": excerpt["place"], "source": excerpt["source"], "kind": KINDS[drop.rule],
                "similarity": round(drop.similarity, 4), **through, "row": excerpt}  # fmt: skip

    def write_contamination(
        self, questions: Sequence[BenchmarkQuestion], coverage: Sequence[Coverage]
    ) -> dict[str, Any]:
        """Writes contaminated.jsonl: each row that holds a question, with the question. Returns the counts."""
        benchmarks = [
            {"name": c.benchmark, "questions": c.questions, "checkable": c.alone + c.with_answer, "alone": c.alone,
             "with_answer": c.with_answer, "unchecked": c.unchecked}
            for c in coverage
        ]  # fmt: skip
        table = {c.benchmark: dict.fromkeys(self.summary.labels, 0) for c in coverage}
        examples: dict[str, list[dict[str, Any]]] = {name: [] for name in table}
        for row, hits in enumerate(self.ledger.features.hits or []):
            for hit in hits:
                question, excerpt = questions[hit.question], self._excerpt(row)
                table[question.benchmark][excerpt["source"]] += 1
                entry = {
                    "benchmark": question.benchmark, "question": question.text, "question_place": question.place,
                    "place": excerpt["place"], "source": excerpt["source"], "score": round(hit.score, 4),
                    "row": excerpt,
                }  # fmt: skip
                self._write("contaminated", entry)
                if len(examples[question.benchmark]) < HITS:
                    examples[question.benchmark].append(shortened(entry))
        return {"method": METHOD, "benchmarks": benchmarks, "table": table,
                "examples": [entry for entries in examples.values() for entry in entries]}  # fmt: skip

    def _write(self, name: str, row: Mapping[str, Any]) -> None:
        self._write_line(name, json_text(row, default=str))

    def _write_line(self, name: str, text: str) -> None:
        self._files[name].write(_encoded(text) + b"\n")
        self.lines[name] += 1


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
