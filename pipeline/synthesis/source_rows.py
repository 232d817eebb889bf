"""Rows of `synthesis.sources`, each with its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.config.data import Source
from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.placeholders import no_input_spelling
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.row import Rejected, check
from pipeline.dataset.read.source import labels, read
from pipeline.dataset.reading import FIXES
from pipeline.run.errors import UserError
from pipeline.synthesis.request import Draft


@dataclass(frozen=True)
class SourceRow:
    """A row of a source. place: file and line, or as the source's form has it."""

    example: Example
    place: str


def source_rows(sources: Sequence[Source], seed: int) -> list[SourceRow | Rejected]:
    """All rows of the sources in their order; those that cannot be used with rule and reason.

    Of a source with a `limit` those rows are taken whose hashes are smallest, so that rows that are added or removed
    elsewhere in the file change little.

    Raises:
        UserError: a source cannot be read, or none of its rows can be used.
    """
    rows: list[SourceRow | Rejected] = []
    for source, label in zip(sources, labels(sources), strict=True):
        own = list(_rows(source, label, seed))
        usable = [row for row in own if isinstance(row, SourceRow)]
        if not usable:
            raise _unusable(own, label)
        if source.limit and len(usable) > source.limit:
            taken = {id(row) for row in sorted(usable, key=lambda row: _rank(row, seed))[: source.limit]}
            own = [row for row in usable if id(row) in taken]
        rows += own
    return rows


def rejected(row: Rejected) -> Draft:
    """The draft in place of a row that cannot be used."""
    raw = json.dumps(row.row, ensure_ascii=False, default=str)
    return Draft(origin={"source": row.source, "place": row.place}).reject(row.rule, row.reason, raw)


def _rows(source: Source, label: str, seed: int) -> Iterator[SourceRow | Rejected]:
    for raw in read(source, seed):
        for row in to_alpaca(raw, source):
            checked = check(row, source, label)
            yield checked if isinstance(checked, Rejected) else SourceRow(_without_placeholder(checked), row.place)


def _without_placeholder(example: Example) -> Example:
    """The row with an empty input where that only says that there is none, such as <noinput>."""
    finding = no_input_spelling(Texts(example.instruction, example.input, example.output))
    return replace(example, input=finding.texts.input) if finding and finding.texts else example


def _rank(row: SourceRow, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{row.example.id}".encode()).hexdigest()


def _unusable(rows: Sequence[SourceRow | Rejected], label: str) -> UserError:
    first = next((row for row in rows if isinstance(row, Rejected)), None)
    if first is None:
        return UserError("the source has no rows", label, "it needs rows with an instruction, or a question")
    fix = FIXES.get(first.rule, "each row is an object with the texts instruction, input (optional) and output")
    return UserError(f"none of its {len(rows):,} rows can be used ({first.reason})", first.place, fix)
