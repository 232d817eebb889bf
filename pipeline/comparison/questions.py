"""Question sets: what base and tuned model are asked.

A set is read as instruction data is (`pipeline.dataset.read.source`), so it may have every form that data has; only the
answer may be missing. Where there is one it is the reference. The category is the row's `category` or `task`, or
`motivation_app` as in self-instruct's `user_oriented_instructions.jsonl`.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.config.schema import Source
from pipeline.dataset.read import source as sources
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.row import Rejected, check
from pipeline.run.errors import UserError

WHERE = "compare.questions"
ENDING = re.compile(r"\.(jsonl?|csv|tsv|parquet|arrow)?(\.(gz|zip|xz|bz2|zst))?$", re.IGNORECASE)
OTHER = "other"  # category of a question that has none


class QuestionSource(Source):
    needs: ClassVar[tuple[str, ...]] = ("instruction",)


@dataclass(frozen=True)
class Question:
    """id: the row's own, or its set's name and a number; no two questions share one. set: the file's name, without
    its ending. reference: the set's own answer, empty where it has none. place: file and line."""

    id: str
    set: str
    category: str
    instruction: str
    input: str
    reference: str
    place: str

    def as_dict(self) -> dict[str, Any]:
        """All but the place, which is this machine's."""
        return {name: value for name, value in asdict(self).items() if name != "place"}


def files(paths: Sequence[str]) -> list[Path]:
    """The files of all sets; none for hub ids.

    Raises:
        UserError: no set is named, or there is no such file.
    """
    if not paths:
        raise UserError("no question set is named", WHERE, "compare.questions=[data/questions_ko.jsonl]")
    found = []
    for path in paths:
        if path == "families":
            raise UserError("families are tasks made by code, no question set", WHERE, "name a file or a hub id")
        try:
            found += sources.files_of(QuestionSource(path=path))
        except UserError as error:
            raise UserError(error.what.replace("data file", "question set"), WHERE, error.fix) from None
    return found


def read_all(paths: Sequence[str], limit: int | None = None) -> tuple[list[Question], int]:
    """The questions of all sets in their order, and how many were left out since they had been asked before.

    Args:
        limit: most questions of one set, taken from its categories in turn.

    Raises:
        UserError: a set cannot be read or holds no question, or a row is none; with its place.
    """
    files(paths)
    found: list[Question] = []
    asked: set[tuple[str, str]] = set()
    ids: set[str] = set()
    twice = 0
    for path, name in zip(paths, _names(paths), strict=True):
        fresh = []
        for question in _read(path, name):
            text = question.instruction.strip(), question.input.strip()
            if text in asked:
                twice += 1
                continue
            asked.add(text)
            if question.id in ids:  # two sets may both count from 1
                question = Question(**{**asdict(question), "id": f"{name}/{question.id}"})
            if question.id in ids:
                raise UserError(f"two questions have the id {question.id!r}", question.place, "give each its own")
            ids.add(question.id)
            fresh.append(question)
        found += in_turn(fresh, limit)
    return found, twice


def in_turn(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """At most `limit` questions, one of each category after the other; in their old order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    by_category: defaultdict[str, list[int]] = defaultdict(list)
    for i, question in enumerate(questions):
        by_category[question.category].append(i)
    rounds = itertools.zip_longest(*by_category.values())
    chosen = [i for one in rounds for i in one if i is not None][:limit]
    return [questions[i] for i in sorted(chosen)]


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each set: the file's or folder's, with a number where two are alike."""
    found: list[str] = []
    for path in paths:
        base = Path(path)
        whole = base.parent.name if glob.has_magic(base.name) else base.name
        stem = ENDING.sub("", whole) or "questions"
        names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        found.append(next(name for name in names if name not in found))
    return found


def _read(path: str, name: str) -> Iterator[Question]:
    source = QuestionSource(path=path)
    number = 0
    for raw in sources.read(source, 0):
        made = to_alpaca(raw, source)
        for k, one in enumerate(made, 1):
            number += 1
            example = check(one, source)
            if isinstance(example, Rejected):
                raise UserError(f"not a question: {example.reason}", example.place, "mend or delete that row")
            row = raw.value if isinstance(raw.value, dict) else {}
            own = row.get("id")
            id = str(own).strip() if isinstance(own, str | int) and not isinstance(own, bool) else ""
            id = (f"{id}-{k}" if len(made) > 1 else id) if id else f"{name}-{number}"
            app = row.get("motivation_app")
            category = example.task or (app.strip() if isinstance(app, str) else "") or OTHER
            yield Question(id, name, category, example.instruction, example.input, example.output, one.place)
    if not number:
        raise UserError("the set holds no questions", path, "it needs rows with an instruction")
