"""Question sets for base and tuned model.

A set is read like instruction data (`pipeline.dataset.read.source`) and may have all of its forms, with or without
answers; an answer is the reference. The category is the row's `category` or `task`, or `motivation_app` as in
self-instruct's `user_oriented_instructions.jsonl`.

With a chat template a conversation is one question: all turns up to its last answer, which is the reference, or to the
user's turn at its end. Otherwise it is a question for each answer, with the earlier turns as input.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pipeline.config.schema import Source
from pipeline.dataset.example import Example
from pipeline.dataset.read import source as sources
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.conversation import LABELS
from pipeline.dataset.read.row import Rejected, check
from pipeline.dataset.read.tool_calls import text_of
from pipeline.dataset.turn import Turn
from pipeline.run.errors import UserError
from pipeline.run.object_store import DataFile

WHERE = "compare.questions"
ENDING = re.compile(r"\.(jsonl?|csv|tsv|parquet|arrow)?(\.(gz|zip|xz|bz2|zst))?$", re.IGNORECASE)
OTHER = "other"  # category of a question without one


class QuestionSource(Source):
    needs: ClassVar[tuple[str, ...]] = ("instruction",)


@dataclass(frozen=True)
class CompareQuestion:
    """A question of a set.

    Attributes:
        id: the row's own, or its set's name and a number; unique. set: the file's name without its ending.
        reference: the set's own answer, empty where it has none. place: file and line.
        conversation: messages that are rendered in place of instruction and input; only with a chat template, for
            conversations and questions with a system message. Then the input is their text, to be read by people and
            judges. tools: descriptions of functions that the messages may call.
    """

    id: str
    set: str
    category: str
    instruction: str
    input: str
    reference: str
    place: str
    conversation: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()

    def as_dict(self) -> dict[str, Any]:
        """All but the place, which names a folder of this machine; `conversation` and `tools` where there are any."""
        optional = ("conversation", "tools")
        return {name: v for name, v in asdict(self).items() if name != "place" and (v or name not in optional)}

    def example(self) -> Example:
        """The question as a row without an answer."""
        if not self.conversation:
            return Example.of(self.instruction, self.input, "", source=self.set, task=self.category)
        first = self.conversation[0]
        system = first["content"] if first["role"] == "system" else ""
        turns = [Turn.of(message) for message in self.conversation if message["role"] != "system"]
        turns.append(Turn("assistant", ""))
        return Example.whole(turns, source=self.set, system=system, tools=self.tools, task=self.category)


TooLong = tuple[CompareQuestion, int]  # a question and the tokens of its prompt


def files(paths: Sequence[str]) -> list[DataFile]:
    """The files of all sets; none for hub ids.

    Raises:
        UserError: no set is named, or there is no such file.
    """
    if not paths:
        raise UserError("no question set is named", WHERE, "compare.questions=[data/questions_ko.jsonl]")
    paths_found: list[DataFile] = []
    for path in paths:
        if path == "families":
            raise UserError("families are generated tasks, not a question set", WHERE, "name a file or a hub id")
        try:
            paths_found += sources.files_of(QuestionSource(path=path))
        except UserError as error:
            raise UserError(error.what.replace("data file", "question set"), WHERE, error.fix) from None
    return paths_found


def read_all(paths: Sequence[str], limit: int | None = None, whole: bool = False) -> tuple[list[CompareQuestion], int]:
    """The questions of all sets in their order, and how many repeated questions were left out.

    Args:
        limit: questions of one set at most, taken from its categories in turn. whole: for a chat template.

    Raises:
        UserError: a set cannot be read or is empty, or a row is not a question (with its place).
    """
    files(paths)
    questions: list[CompareQuestion] = []
    texts: set[tuple[str, str]] = set()
    ids: set[str] = set()
    repeated = 0
    for path, name in zip(paths, _names(paths), strict=True):
        fresh = []
        for question in _read(path, name, whole):
            text = question.instruction.strip(), question.input.strip()
            if text in texts:
                repeated += 1
                continue
            texts.add(text)
            if question.id in ids:  # sets may number their rows alike
                question = replace(question, id=f"{name}/{question.id}")
            if question.id in ids:
                raise UserError(f"two questions have the id {question.id!r}", question.place, "give each its own")
            ids.add(question.id)
            fresh.append(question)
        questions += in_turn(fresh, limit)
    return questions, repeated


def in_turn(questions: Sequence[CompareQuestion], limit: int | None) -> list[CompareQuestion]:
    """At most `limit` questions, chosen from the categories in turn, in their original order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    by_category: defaultdict[str, list[int]] = defaultdict(list)
    for i, question in enumerate(questions):
        by_category[question.category].append(i)
    rounds = itertools.zip_longest(*by_category.values())
    chosen = [i for one in rounds for i in one if i is not None][:limit]
    return [questions[i] for i in sorted(chosen)]


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each set: the file's or folder's, with a number where two are the same."""
    unique: list[str] = []
    for path in paths:
        base = Path(path)
        name = base.parent.name if glob.has_magic(base.name) else base.name
        stem = ENDING.sub("", name) or "questions"
        names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        unique.append(next(name for name in names if name not in unique))
    return unique


def _read(path: str, name: str, whole: bool) -> Iterator[CompareQuestion]:
    source = QuestionSource(path=path)
    number = 0
    for raw in sources.read(source, 0):
        parsed = to_alpaca(raw, source, whole)
        for k, row in enumerate(parsed, 1):
            number += 1
            example = check(row, source)
            if isinstance(example, Rejected):
                raise UserError(f"not a question: {example.reason}", example.place, "fix or delete that row")
            value = raw.value if isinstance(raw.value, dict) else {}
            own = value.get("id")
            id = str(own).strip() if isinstance(own, str | int) and not isinstance(own, bool) else ""
            id = (f"{id}-{k}" if len(parsed) > 1 else id) if id else f"{name}-{number}"
            app = value.get("motivation_app")
            category = example.task or (app.strip() if isinstance(app, str) else "") or OTHER
            yield _question(example, id, name, category, row.place)
    if not number:
        raise UserError("the set holds no questions", path, "it needs rows with an instruction")


def _question(example: Example, id: str, name: str, category: str, place: str) -> CompareQuestion:
    """The question of an example of the set `name`."""
    if not example.turns and not example.system:
        texts = example.instruction, example.input, example.output
        return CompareQuestion(id, name, category, *texts, place)
    *messages, answer = example.messages()
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    others = [message for i, message in enumerate(messages) if i != last]
    asked, text, tools = messages[last]["content"], "\n".join(map(_line, others)), list(example.tools)
    return CompareQuestion(id, name, category, asked, text, answer["content"], place, messages, tools)


def _line(message: Mapping[str, Any]) -> str:
    """A message as a line of a transcript."""
    texts = [message["content"], text_of(message.get("tool_calls") or ())]
    label = LABELS.get(message["role"], str(message["role"]).capitalize())
    return f"{label}: {' '.join(filter(None, texts))}"
