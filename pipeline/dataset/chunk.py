"""The work on single rows, a thousand at a time: convert, check, clean, and compute the features for comparisons.

    Chunk (raw rows) -> ChunkPipeline -> ChunkResult (lines to write, features, counts)

A pure function, so that it gives the same result in this process, in a pool of processes or on a cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import Data, Source
from pipeline.dataset.clean.conversation import ConversationCleaner
from pipeline.dataset.clean.rule import Change, Cleaner, Texts
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import notes_of, to_alpaca
from pipeline.dataset.read.compressed import READ
from pipeline.dataset.read.conversation import CONVERSATION, characters, growth
from pipeline.dataset.read.forms import EXTRA, form_name
from pipeline.dataset.read.row import RawRow, Rejected, check
from pipeline.dataset.read.source import labels, read
from pipeline.dataset.read.tool_calls import text_of
from pipeline.dataset.select.contamination import Hit, QuestionIndex
from pipeline.dataset.select.duplicates import Signatures, shingles, signatures
from pipeline.dataset.select.text_units import Hashes, fingerprint, hashes, normalise, units
from pipeline.run.files import json_text

ROWS = 1000
CHARACTERS = 4_000_000  # in a chunk, about, read or written; so chunks of huge rows and long conversations are small
EXAMPLES = 5  # of rows that a rule rejected, for the report
LISTS = frozenset((*CONVERSATION, "history", "instances"))  # fields of which many rows are made
REPEATED = ("instruction", *EXTRA["system"])  # fields that are repeated in each of these rows
SEPARATOR = "\x1e"  # between a row's place and its JSON, which cannot hold this character unescaped


@dataclass(frozen=True)
class Chunk:
    """Raw rows of one source (its number in `data.sources`), in their order.

    read: bytes of the source's files that were read when the chunk was complete; 0 where they cannot be counted.
    """

    source: int
    raws: list[RawRow]
    read: int = 0


@dataclass
class Features:
    """What is compared of the rows of a chunk that were not rejected; every list has one item for each row."""

    ids: Hashes
    texts: Hashes
    tasks: list[str]
    languages: list[str]
    threads: Hashes
    exact: NDArray[np.bool_]
    inputs: NDArray[np.bool_]
    signatures: Signatures | None
    hits: list[list[Hit]] | None
    turns: NDArray[np.int32] | None = None
    """[rows, 5]: the counts of `_counts`. None if conversations are cut into rows."""


@dataclass
class ChunkResult:
    """The rows of a chunk after checks and rules.

    lines: every row as `place SEPARATOR json`, encoded. accepted: which of them are examples; the others are rejected.
    changes: what rules did to accepted rows. rejected: rows rejected by each rule. examples: a few of those.
    notes: on fields that are not learnt, with the number of rows. read: as of the chunk.
    """

    source: int
    lines: list[bytes]
    accepted: NDArray[np.bool_]
    features: Features
    changes: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    forms: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    read: int = 0


def chunks(number: int, source: Source, seed: int, whole: bool = False) -> Iterator[Chunk]:
    """A source in chunks of bounded size. whole: conversations stay whole."""
    raws: list[RawRow] = []
    size = 0
    READ.reset()
    for raw in read(source, seed):
        raws.append(raw)
        size += characters(raw.value) if whole else _characters(raw.value)
        if len(raws) == ROWS or size > CHARACTERS:
            yield Chunk(number, raws, READ.count if READ.is_known else 0)
            raws, size = [], 0
    if raws:
        yield Chunk(number, raws, READ.count if READ.is_known else 0)


def _characters(row: Any) -> int:
    """Characters of a row, and about how many more of the rows made of it: each repeats the earlier turns."""
    lists = [v for k, v in row.items() if k.strip().lower() in LISTS] if isinstance(row, dict) else []
    repeated = sum(characters(row.get(name)) for name in REPEATED) if lists else 0
    return characters(row) + sum(growth(messages, repeated) for messages in lists)


class ChunkPipeline:
    """The work on a chunk. Picklable; created once in each process. whole: conversations stay whole."""

    def __init__(self, data: Data, benchmarks: QuestionIndex | None, whole: bool = False) -> None:
        self.data, self.benchmarks, self.whole = data, benchmarks, whole
        self.clean = Cleaner(data.clean, data.rules)
        self.clean_conversation = ConversationCleaner(data.clean, data.rules)
        self.labels = labels(data.sources)

    def __call__(self, chunk: Chunk) -> ChunkResult:
        source = self.data.sources[chunk.source]
        lines: list[bytes] = []
        examples: list[Example] = []
        accepted: list[bool] = []
        result = ChunkResult(chunk.source, lines, np.zeros(0, np.bool_), _NONE, read=chunk.read)
        for raw in chunk.raws:
            result.forms[form_name(raw.value, source, self.whole)] += 1
            result.notes.update(notes_of(raw.value, source))
            for row in to_alpaca(raw, source, self.whole):
                example = self._example(row, source, self.labels[chunk.source], result.changes)
                accepted.append(isinstance(example, Example))
                line = f"{row.place.replace(chr(10), ' ')}{SEPARATOR}{_json(example.as_dict())}"
                lines.append(line.encode("utf-8", "surrogatepass"))
                if isinstance(example, Example):
                    examples.append(example)
                else:
                    result.rejected[example.rule] += 1
                    few = result.examples.setdefault(example.rule, [])
                    if len(few) < EXAMPLES:
                        few.append(example.as_dict())
        result.accepted = np.array(accepted, np.bool_)
        result.features = self._features(examples)
        return result

    def _example(self, raw: RawRow, source: Source, label: str, changes: list[dict[str, Any]]) -> Example | Rejected:
        """Checks and cleans a row; what the rules did to an accepted row is added to `changes`."""
        example = check(raw, source, label)
        if isinstance(example, Rejected):
            return example
        if example.turns or example.system:
            return self._conversation(example, raw, source, label, changes)
        cleaned = self.clean(Texts(example.instruction, example.input, example.output), source.language)
        if cleaned.rejected:
            rule, reason = cleaned.rejected
            return Rejected(rule, reason, raw.place, label, raw.value)
        if cleaned.texts != (example.instruction, example.input, example.output):
            example = Example.of(
                *cleaned.texts, source=example.source, task=example.task, exact=example.exact, thread=example.thread
            )
        changes += [_entry(change, raw, label, example) for change in cleaned.changes]
        return example

    def _conversation(
        self, example: Example, raw: RawRow, source: Source, label: str, changes: list[dict[str, Any]]
    ) -> Example | Rejected:
        """Cleans every turn of a conversation, as `_example` cleans a row."""
        example, turn_changes, rejected = self.clean_conversation(example, source.language)
        if rejected:
            rule, reason = rejected
            return Rejected(rule, reason, raw.place, label, raw.value)
        for one in turn_changes:
            changes.append({**_entry(one.change, raw, label, example), "turns": list(one.turns)})
        return example

    def _features(self, examples: Sequence[Example]) -> Features:
        data = self.data.duplicates
        compared = data.near or self.benchmarks is not None
        words = [units(_text(e)) for e in examples if compared]
        hashed = [hashes(w) for w in words]
        shingled = [shingles(w, h, data.shingle) for w, h in zip(words, hashed, strict=True) if data.near]
        own = [_own_units(e) for e in examples if data.near]
        texts = ["\x1f".join(map(normalise, _texts(e))) for e in examples]
        return Features(
            ids=np.array([int(e.id, 16) for e in examples], np.uint64),
            texts=np.array([fingerprint(t) for t in texts] if data.exact else [0] * len(examples), np.uint64),
            tasks=[e.task for e in examples],
            languages=[e.language for e in examples],
            threads=np.array([int(e.thread or "0", 16) for e in examples], np.uint64),
            exact=np.array([e.exact for e in examples], np.bool_),
            inputs=np.array([bool(e.input) for e in examples], np.bool_),
            signatures=signatures(shingled, own, data.near) if data.near else None,
            hits=self.benchmarks.find(hashed) if self.benchmarks is not None else None,
            turns=np.array([_counts(e) for e in examples], np.int32).reshape(-1, 5) if self.whole else None,
        )


_EMPTY = np.zeros(0, np.uint64)
_NONE = Features(_EMPTY, _EMPTY, [], [], _EMPTY, np.zeros(0, np.bool_), np.zeros(0, np.bool_), None, None)


def _entry(change: Change, raw: RawRow, label: str, example: Example) -> dict[str, Any]:
    entry = {"rule": change.rule, "action": change.action, "reason": change.reason, "place": raw.place}
    return {**entry, "source": label, "id": example.id, "before": change.before, "after": change.after}


def _text(e: Example) -> str:
    """All texts of a row, in which near-duplicates and benchmark questions are looked for."""
    if e.turns or e.system:
        return "\n".join(_texts(e))
    return f"{e.instruction}\n{e.input}\n{e.output}"


def _texts(e: Example) -> Sequence[str]:
    """The texts that are equal in exact duplicates."""
    if not e.turns:
        return (e.instruction, e.input, e.output, e.system) if e.system else (e.instruction, e.input, e.output)
    texts = [e.system] if e.system else []
    for turn in e.turns:
        calls = turn.more.get("tool_calls")
        texts += [turn.content, text_of(calls)] if calls else [turn.content]
    return texts


def _counts(e: Example) -> tuple[int, int, int, bool, bool]:
    """Turns, answers, answers that are learnt; whether there is a system message, and whether there are tools."""
    answers = [turn.learn for turn in e.turns if turn.role == "assistant"] if e.turns else [True]
    return len(e.turns) or 2, len(answers), sum(answers), bool(e.system), bool(e.tools)


def _own_units(example: Example) -> Hashes:
    """Units of a row without the block of its prompt that makes up most of it (passage, system message, instruction).

    Empty if no block does: then the rows are compared as a whole only.
    """
    if example.turns or example.system:
        prompts = [turn.content for turn in example.turns if turn.role != "assistant"] or [example.instruction]
        blocks = [example.system, *(block for text in prompts for block in text.split("\n\n")), example.input]
        answers = [turn.content for turn in example.turns if turn.role == "assistant"] or [example.output]
    else:
        blocks, answers = [*example.instruction.split("\n\n"), example.input], [example.output]
    longest = max(range(len(blocks)), key=lambda i: len(blocks[i]))
    rest = "\n".join([*(b for i, b in enumerate(blocks) if i != longest), *answers])
    return hashes(units(rest)) if len(blocks[longest]) > len(rest) else _EMPTY


def _json(row: dict[str, Any]) -> str:
    try:
        return json_text(row, default=str)
    except RecursionError:  # a rejected row may be parsed and still be too deep to be written
        return json_text({**row, "row": "(nested too deeply to be written)"})
