"""Reads one source: its rows pass checks and rules, and are added to the ledger and the counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.schema import Data
from pipeline.dataset.chunk import ChunkPipeline, chunks
from pipeline.dataset.engine import Engine
from pipeline.dataset.ledger import Ledger
from pipeline.dataset.read.source import files_of
from pipeline.dataset.summary import Summary
from pipeline.run.errors import UserError
from pipeline.run.object_store import size_of
from pipeline.run.progress import bar, say

FIXES = {  # by the rule that rejected most rows of a source without any accepted row
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
    "call-without-result": "each call of a tool needs its result before the next turn",
    "result-without-call": "each result of a tool needs the message that calls it: tool_calls",
    "weight-zero": "at least one answer of a conversation needs a weight other than 0",
    "ragged": "put quotes around cells that hold the separator or a line break",
}


def read_source(
    number: int, data: Data, pipeline: ChunkPipeline, engine: Engine, ledger: Ledger, summary: Summary
) -> Iterator[dict[str, Any]]:
    """Adds the rows of source `number` to `ledger` and `summary`; yields what rules changed or flagged.

    Raises:
        UserError: none of its rows is accepted.
    """
    source, label = data.sources[number], summary.labels[number]
    before, accepted = len(ledger), 0
    size = sum(size_of(path) for path in files_of(source))
    with bar(what=f"data: reading {Path(source.path).name}", total=source.rows) as progress:
        for result in engine.map(pipeline, chunks(number, source, data.seed, pipeline.whole)):
            ledger.add(result)
            summary.add(result)
            yield from result.changes
            accepted += int(result.accepted.sum())
            if source.rows is None:
                progress.total = expected_rows(progress.n + len(result.lines), result.read, size)
            progress.update(len(result.lines))
        progress.total = progress.n
    rows = len(ledger) - before
    if not accepted:
        what, fix = _no_row_accepted(summary, number)
        raise UserError(what, label, fix)
    rejected = f"{rows - accepted:,} of them rejected" if accepted < rows else "none rejected"
    say(f"data: {label}: {rows:,} rows read, {rejected}")


def expected_rows(rows: int, read: int, size: int) -> int | None:
    """How many rows a source has in all, if the rest of its files is like what was read; None if unknown.

    Args:
        rows: that were made of the first `read` bytes. size: bytes of all its files.
    """
    return max(rows, round(rows * size / read)) if read and size else None


def _no_row_accepted(summary: Summary, number: int) -> tuple[str, str]:
    """Why no row of a source was accepted, and the fix for the most frequent reason."""
    counts = {
        rule: n for (rule, action, source), n in summary.counts.items() if action == "rejected" and source == number
    }
    if not counts:
        return "the source has no rows", "it needs rows of instruction, input (optional) and output"
    rules = sorted(counts, key=lambda rule: (-counts[rule], rule))
    first = {rule: summary.examples[rule][0] for rule in rules}
    reasons = "; ".join(f"{counts[rule]:,} x {first[rule]['reason']}" for rule in rules[:3])
    fix = FIXES.get(rules[0], "each row is an object with the texts instruction, input (optional) and output")
    place = first[rules[0]]["place"]
    return f"all {sum(counts.values()):,} rows were rejected ({reasons}; first: {place})", fix
