"""What is done to rows without knowing the others: read form, check, clean, and take the features that compare them.

A pure function of some thousand raw rows, so that it runs in this process, in a pool of processes or on a cluster
with the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import Data, Source
from pipeline.dataset.clean.rule import Cleaner, Texts
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import notes_of, to_alpaca
from pipeline.dataset.read.conversation import CONVERSATION, characters, growth
from pipeline.dataset.read.forms import EXTRA, form_name
from pipeline.dataset.read.row import RawRow, Rejected, check
from pipeline.dataset.read.source import labels, read
from pipeline.dataset.select.contamination import Hit, Index
from pipeline.dataset.select.duplicates import Signatures, shingles, signatures
from pipeline.dataset.select.shingle import Hashes, fingerprint, hashes, normalise, units
from pipeline.run.files import json_text

ROWS = 1000
LETTERS = 4_000_000  # in a chunk, about, read or written: rows of many megabytes, and long talks, go one by one
EXAMPLES = 5  # of what a rule stopped, for the report
TALKS = frozenset((*CONVERSATION, "history", "instances"))  # fields that make many rows of one
REPEATED = ("instruction", *EXTRA["system"])  # fields that stand in each of them
MARK = "\x1e"  # between a row's place and its JSON, which cannot hold this sign unescaped


@dataclass(frozen=True)
class Chunk:
    """Raw rows of one source (its number in `data.sources`), in their order."""

    source: int
    raws: list[RawRow]


@dataclass
class Features:
    """What later decisions know of the rows of a chunk that are still there; every list has one item a row."""

    ids: Hashes
    texts: Hashes
    tasks: list[str]
    languages: list[str]
    threads: Hashes
    exact: NDArray[np.bool_]
    inputs: NDArray[np.bool_]
    signatures: Signatures | None
    hits: list[list[Hit]] | None


@dataclass
class Result:
    """What came of a chunk.

    lines: every row as `place MARK json`, encoded. kept: which of them are examples; the others are rejections.
    changes: what rules did to rows that stay. rejected: how many rows each rule stopped. examples: a few of those.
    notes: what is to be said of fields that are not learnt, with the number of rows.
    """

    source: int
    lines: list[bytes]
    kept: NDArray[np.bool_]
    features: Features
    changes: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    forms: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def chunks(number: int, source: Source, seed: int) -> Iterator[Chunk]:
    """A source in pieces of bounded size."""
    raws: list[RawRow] = []
    size = 0
    for raw in read(source, seed):
        raws.append(raw)
        size += _letters(raw.value)
        if len(raws) == ROWS or size > LETTERS:
            yield Chunk(number, raws)
            raws, size = [], 0
    if raws:
        yield Chunk(number, raws)


def _letters(row: Any) -> int:
    """Letters of a row, and about how many more are written when it becomes many: each repeats what was said before."""
    talks = [v for k, v in row.items() if k.strip().lower() in TALKS] if isinstance(row, dict) else []
    repeated = sum(characters(row.get(name)) for name in REPEATED) if talks else 0
    return characters(row) + sum(growth(talk, repeated) for talk in talks)


class Work:
    """All that happens to a chunk. Picklable; made once a process."""

    def __init__(self, data: Data, benchmarks: Index | None) -> None:
        self.data, self.benchmarks = data, benchmarks
        self.clean = Cleaner(data.clean, data.rules)
        self.labels = labels(data.sources)

    def __call__(self, chunk: Chunk) -> Result:
        source = self.data.sources[chunk.source]
        lines: list[bytes] = []
        examples: list[Example] = []
        kept: list[bool] = []
        result = Result(chunk.source, lines, np.zeros(0, np.bool_), _NONE)
        for raw in chunk.raws:
            result.forms[form_name(raw.value, source)] += 1
            result.notes.update(notes_of(raw.value, source))
            for one in to_alpaca(raw, source):
                found = self._example(one, source, self.labels[chunk.source], result.changes)
                kept.append(isinstance(found, Example))
                lines.append(
                    f"{one.place.replace(chr(10), ' ')}{MARK}{_line(found.as_dict())}".encode("utf-8", "surrogatepass")
                )
                if isinstance(found, Example):
                    examples.append(found)
                else:
                    result.rejected[found.rule] += 1
                    few = result.examples.setdefault(found.rule, [])
                    if len(few) < EXAMPLES:
                        few.append(found.as_dict())
        result.kept = np.array(kept, np.bool_)
        result.features = self._features(examples)
        return result

    def _example(self, raw: RawRow, source: Source, label: str, changes: list[dict[str, Any]]) -> Example | Rejected:
        """Checked and cleaned; what the rules did to a row that stays is added to `changes`."""
        example = check(raw, source, label)
        if isinstance(example, Rejected):
            return example
        cleaned = self.clean(Texts(example.instruction, example.input, example.output), source.language)
        if cleaned.rejected:
            rule, reason = cleaned.rejected
            return Rejected(rule, reason, raw.place, label, raw.value)
        if cleaned.texts != (example.instruction, example.input, example.output):
            example = Example.of(
                *cleaned.texts, source=example.source, task=example.task, exact=example.exact, thread=example.thread
            )
        for change in cleaned.changes:
            said = {"rule": change.rule, "action": change.action, "reason": change.reason, "place": raw.place}
            changes.append({**said, "source": label, "id": example.id, "before": change.before, "after": change.after})
        return example

    def _features(self, examples: Sequence[Example]) -> Features:
        data = self.data.duplicates
        compared = data.near or self.benchmarks is not None
        found = [units(f"{e.instruction}\n{e.input}\n{e.output}") for e in examples if compared]
        whole = [hashes(u) for u in found]
        runs = [shingles(u, h, data.shingle) for u, h in zip(found, whole, strict=True) if data.near]
        own = [_own(e) for e in examples if data.near]
        texts = ["\x1f".join(map(normalise, (e.instruction, e.input, e.output))) for e in examples]
        return Features(
            ids=np.array([int(e.id, 16) for e in examples], np.uint64),
            texts=np.array([fingerprint(t) for t in texts] if data.exact else [0] * len(examples), np.uint64),
            tasks=[e.task for e in examples],
            languages=[e.language for e in examples],
            threads=np.array([int(e.thread or "0", 16) for e in examples], np.uint64),
            exact=np.array([e.exact for e in examples], np.bool_),
            inputs=np.array([bool(e.input) for e in examples], np.bool_),
            signatures=signatures(runs, own, data.near) if data.near else None,
            hits=self.benchmarks.find(whole) if self.benchmarks is not None else None,
        )


_EMPTY = np.zeros(0, np.uint64)
_NONE = Features(_EMPTY, _EMPTY, [], [], _EMPTY, np.zeros(0, np.bool_), np.zeros(0, np.bool_), None, None)


def _own(example: Example) -> Hashes:
    """Units of a row without the one block that makes up most of it: a passage, a system message, a long instruction.

    None where no block of the prompt does: then rows that are alike as a whole are alike in their parts.
    """
    blocks = [*example.instruction.split("\n\n"), example.input]
    longest = max(range(len(blocks)), key=lambda i: len(blocks[i]))
    rest = "\n".join([*(b for i, b in enumerate(blocks) if i != longest), example.output])
    return hashes(units(rest)) if len(blocks[longest]) > len(rest) else _EMPTY


def _line(row: dict[str, Any]) -> str:
    try:
        return json_text(row, default=str)
    except RecursionError:  # a rejected row that could just be parsed can be too deep to be written
        return json_text({**row, "row": "(nested too deeply to be written)"})
