"""Questions and answers from documents, or answers to given questions, as KoAlpaca v1.1 was made (Beomi/KoAlpaca:
questions of Naver Knowledge-iN with their answers, answered anew by ChatGPT, which was shown these).

    passage -> questions that it answers, asked for once more where they speak of the passage   (first phase)
    question and given answer -> nothing is asked                                                (first phase)
            -> answer with a quotation from the passage, checked against it                      (second phase)
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.read.row import Rejected
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_json
from pipeline.synthesis.asking import FLAG, TEXT, list_schema, object_schema, request_of, wants_json
from pipeline.synthesis.documents.read import WHERE, read
from pipeline.synthesis.finishing import finished
from pipeline.synthesis.language_names import name_of, wording
from pipeline.synthesis.passages import Passage, passages
from pipeline.synthesis.prompt_text import filled
from pipeline.synthesis.question_prompts import (  # fmt: skip
    ANSWER,
    ANSWER_FAULT,
    ANSWER_JSON,
    ANSWER_TEXT,
    ASK,
    ASK_FAULT,
    ASK_JSON,
    ASK_TEXT,
    HEADINGS,
)
from pipeline.synthesis.repair import Fault, asked, unread
from pipeline.synthesis.reply_form import Field, record, records
from pipeline.synthesis.request import Draft, Reply, Request, Work
from pipeline.synthesis.script_check import foreign_script
from pipeline.synthesis.source_rows import rejected, source_rows
from pipeline.synthesis.standalone import mention
from pipeline.synthesis.support import unsupported
from pipeline.synthesis.untranslated import in_wrong_language

QUESTION = (Field("question", ("Question", "질문")),)
ANSWERED = (
    Field("answerable", ("Answerable", "답변가능"), kind=bool), Field("quote", ("Quote", "인용"), may_lack=True),
    Field("answer", ("Answer", "답변"), may_lack=True),
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A passage, with a question where the user gave one.

    Attributes:
        passage: what answers are taken from. headings: that it is under.
        question, input: of the user; empty: questions are asked for.
        origin: where it comes from, for the rows.
    """

    passage: str
    headings: tuple[str, ...]
    origin: Mapping[str, Any]
    question: str = ""
    input: str = ""
    task: str = ""

    @property
    def context(self) -> str:
        """The passage with its headings: what an answer may be taken from."""
        return "\n".join((*self.headings, self.passage, self.input))


Question = tuple[str, str, str]
"""A question, and rule and reason where it is rejected."""


class Questions:
    """Rows from the documents and the questions of a config.

    Items are in the order of their hashes, so that a few rows come from all of the documents, and new documents change
    no request about others.

    Raises:
        UserError: a source or a document cannot be read, or they hold no text.
    """

    def __init__(self, settings: Synthesis) -> None:
        self.settings = settings
        self.within = wording(settings.language)
        self.language = name_of(settings.language, self.within)
        self.prompt = sha256_json([ASK[self.within], ANSWER[self.within]])[:16]
        own = [
            _given(row) if not isinstance(row, Rejected) else row
            for row in source_rows(settings.sources, settings.seed)
        ]
        cut = passages(read(settings.documents), settings.passage) if settings.documents else []
        if settings.documents and not cut:
            raise UserError("the documents hold no passage to ask about", WHERE, "name documents with longer texts")
        self.list = sorted([*own, *map(_of_document, cut)], key=lambda item: _rank(item, settings.seed))
        self.items: int | None = len(self.list)
        self.rows_per_item = settings.questions_per_passage if cut else 1

    def draft(self, number: int) -> Work:
        """Questions about a passage, or the user's own."""
        item = self.list[number]
        if isinstance(item, Rejected):
            return [rejected(item)]
        draft = Draft(origin={**item.origin, "prompt": self.prompt}, task=item.task, notes={"item": number})
        if item.question:
            return [replace(draft, instruction=item.question, input=item.input)]
        answer = yield from asked(self._ask(item), self._read_questions)
        if answer.value is None:
            return [answer.of(draft)]
        made = [replace(draft, instruction=text).made_of(*answer.requests) for text, _, _ in answer.value]
        return [
            one.reject(rule, reason, answer.raw) if rule else one
            for one, (_, rule, reason) in zip(made, answer.value, strict=True)
        ]

    def finish(self, draft: Draft) -> Work:
        """The answer to a question, from its passage, and what evolution and judge make of the row."""
        item = self.list[draft.notes["item"]]
        assert isinstance(item, Item)
        answer = yield from asked(self._answer(item, draft), functools.partial(self._read_answer, item, draft))
        row = answer.of(draft)
        if answer.value is not None:
            text, quote = answer.value
            row = replace(row, output=text, origin={**draft.origin, "quote": quote})
        rows = yield from finished(self.settings, row)
        return [self._still_supported(rows[0], row, item), *rows[1:]]

    def _still_supported(self, row: Draft, before: Draft, item: Item) -> Draft:
        """The row; rejected where its answer was written again and is not supported any more."""
        if row.rejected or row.output == before.output:
            return row
        fault = self._fault(item, row.instruction, row.output, row.origin["quote"])
        return row.reject(fault.rule, fault.reason) if fault else row

    def _ask(self, item: Item) -> Request:
        settings, within = self.settings, self.within
        is_json = wants_json(settings.teacher)
        text = filled(
            ASK[within], headings=_shown(HEADINGS[within], item.headings), language=self.language,
            count=str(settings.questions_per_passage), passage=item.passage,
        )  # fmt: skip
        schema = object_schema(questions=list_schema(object_schema(question=TEXT)))
        return request_of(settings, text + (ASK_JSON if is_json else ASK_TEXT)[within], "questions", schema)

    def _answer(self, item: Item, draft: Draft) -> Request:
        within, is_json = self.within, wants_json(self.settings.teacher)
        text = filled(
            ANSWER[within], headings=_shown(HEADINGS[within], item.headings), language=self.language,
            passage=item.passage, question=f"{draft.instruction}\n{draft.input}".strip(),
        )  # fmt: skip
        schema = object_schema(answerable=FLAG, quote=TEXT, answer=TEXT)
        return request_of(self.settings, text + (ANSWER_JSON if is_json else ANSWER_TEXT)[within], "answer", schema)

    def _read_questions(self, reply: Reply) -> tuple[list[Question] | None, Fault | None]:
        """The questions of a reply, each with its rule and reason where it cannot be used."""
        settings = self.settings
        found = records(reply.text, "questions", QUESTION, reply.finish)
        if not found.whole:
            return None, unread(reply, found.problem, self._told([found.problem]))
        checked = [(text, *self._question_fault(text)) for got in found.whole if (text := got["question"].strip())]
        checked = checked[: settings.questions_per_passage]
        if not checked:
            return None, Fault("unparsable", "the questions are empty", self._told(["the questions are empty"]))
        faults = [f"{text}: {reason}" for text, _, reason in checked if reason]
        return checked, Fault("", "", self._told(faults)) if faults else None

    def _question_fault(self, text: str) -> tuple[str, str]:
        """Rule and reason of a question that cannot be used; two empty texts: it can."""
        language = self.settings.language
        if words := mention(text):
            return "needs-passage", f"speaks of a text that its reader does not have: {words}"
        if reason := in_wrong_language(text, "", language):
            return "wrong-language", reason
        if self.settings.keep_scripts and (found := foreign_script(text, language, text)):
            return "wrong-script", f"holds a script that {name_of(language)} does not use: {found}"
        return "", ""

    def _read_answer(self, item: Item, draft: Draft, reply: Reply) -> tuple[tuple[str, str] | None, Fault | None]:
        """The answer and its quotation."""
        got = record(reply.text, ANSWERED, reply.finish)
        if isinstance(got, str):
            return None, unread(reply, got, filled(ANSWER_FAULT[self.within], fault=got, language=self.language))
        text, quote = got["answer"], got["quote"]
        if not got["answerable"]:
            return (text, quote), Fault("not-answerable", "the teacher says that the passage does not answer it")
        return (text, quote), self._fault(item, f"{draft.instruction}\n{draft.input}", text, quote)

    def _fault(self, item: Item, question: str, text: str, quote: str) -> Fault | None:
        """Why an answer is rejected. One that lacks support is not asked for again: a model would rather change the
        quotation than the answer."""
        language = self.settings.language
        if not text.strip():
            return Fault("output-empty", "output is empty")
        if missing := unsupported(text, quote, item.context, question, language):
            return Fault("not-supported", "; ".join(missing))
        reason = f"speaks of a text that its reader does not have: {words}" if (words := mention(text)) else ""
        rule = "needs-passage"
        if not reason and (reason := in_wrong_language(question, text, language)):
            rule = "wrong-language"
        return (
            Fault(rule, reason, filled(ANSWER_FAULT[self.within], fault=reason, language=self.language))
            if reason
            else None
        )

    def _told(self, faults: list[str]) -> str:
        return filled(
            ASK_FAULT[self.within], faults="\n".join(f"- {fault}" for fault in faults), language=self.language,
            count=str(self.settings.questions_per_passage),
        )  # fmt: skip


def _given(row: Any) -> Item:
    """A question with its answer, which is the passage."""
    example = row.example
    key = sha256_json([[], example.output])[:16]
    origin = {"source": example.source, "place": row.place, "id": example.id, "passage": key}
    return Item(example.output, (), origin, example.instruction, example.input, example.task)


def _of_document(passage: Passage) -> Item:
    origin = {"document": passage.document, "place": passage.place, "passage": passage.key}
    if passage.headings:
        origin["heading"] = " > ".join(passage.headings)
    return Item(passage.text, passage.headings, origin)


def _rank(item: Item | Rejected, seed: int) -> str:
    """A hash by which items are ordered: of the content, then of the place."""
    content = [item.row, item.place] if isinstance(item, Rejected) else [item.passage, item.headings, item.question]
    return hashlib.sha256(f"{seed}:{json.dumps(content, ensure_ascii=True, default=str)}".encode()).hexdigest()


def _shown(wording: str, headings: tuple[str, ...]) -> str:
    return filled(wording, headings=" > ".join(headings)) if headings else ""
