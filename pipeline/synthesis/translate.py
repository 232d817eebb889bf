"""Translation of a data set, and answers written anew, as KoAlpaca v1.0 was made (Beomi/KoAlpaca: instruction and input
of Alpaca translated, outputs by a model that was given these).

    source row -> translated, checked, asked for once more where it is not intact   (first phase)
               -> the task is done in the target language                           (second phase, with `rewrite`)
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pipeline.config.data import Source
from pipeline.config.synthesis import Synthesis
from pipeline.dataset.example import Example
from pipeline.dataset.read.forms import TEXTS
from pipeline.dataset.read.row import Rejected
from pipeline.run.files import sha256_json
from pipeline.run.progress import say
from pipeline.synthesis.asking import TEXT, object_schema, request_of, wants_json
from pipeline.synthesis.finishing import finished
from pipeline.synthesis.intact import differences
from pipeline.synthesis.language_names import NAMES, name_of, wording
from pipeline.synthesis.prompt_text import filled
from pipeline.synthesis.repair import Fault, asked, unread
from pipeline.synthesis.reply_form import Field, record, without_thoughts
from pipeline.synthesis.request import Draft, Reply, Request, Work
from pipeline.synthesis.script_check import foreign_script
from pipeline.synthesis.source_rows import rejected, source_rows
from pipeline.synthesis.translate_prompts import (  # fmt: skip
    ANSWER,
    ANSWER_FAULT,
    FAULT,
    FROM,
    IN_JSON,
    IN_TEXT,
    NO_REASON,
    TRANSLATE,
)
from pipeline.synthesis.untranslated import in_wrong_language, is_untranslated

LONGEST_SHOWN = 1000  # characters of an instruction that is too long, in its rejected draft
LABELS = {
    "untranslatable": ("Untranslatable", "번역불가"), "instruction": ("Instruction", "지시"),
    "input": ("Input", "입력"), "output": ("Output", "출력"),
}  # fmt: skip


class Prompts(Source):
    """A source whose outputs are not read."""

    needs: ClassVar[tuple[str, ...]] = ("instruction",)


class Translate:
    """Rows of the sources in another language.

    Raises:
        UserError: a source cannot be read.
    """

    rows_per_item = 1

    def __init__(self, settings: Synthesis) -> None:
        self.settings = settings
        self.within = wording(settings.language)
        self.language = name_of(settings.language, self.within)
        self.fields = TEXTS[:2] if settings.rewrite else TEXTS
        self.prompt = sha256_json([TRANSLATE[self.within], ANSWER[self.within] if settings.rewrite else ""])[:16]
        sources = [Prompts(**s.model_dump()) for s in settings.sources] if settings.rewrite else settings.sources
        self.rows = source_rows(sources, settings.seed)
        self.items: int | None = len(self.rows)
        for code in {settings.language, settings.from_language} - {""}:
            if code not in NAMES:
                say(f"generate: no name is known for the language {code}; prompts show the code")

    def draft(self, number: int) -> Work:
        """The translated instruction and input of a row; with `rewrite: false` its output, too."""
        row = self.rows[number]
        if isinstance(row, Rejected):
            return [rejected(row)]
        example = row.example
        origin = {"source": example.source, "place": row.place, "id": example.id, "prompt": self.prompt}
        draft = Draft(task=example.task, origin=origin, notes={"item": number})
        if not self.settings.rewrite and not example.output.strip():
            return [replace(draft, instruction=example.instruction).reject("output-empty", "output is empty")]
        for name in self.fields:
            if (length := len(getattr(example, name))) > self.settings.longest:
                reason = f"{name} has {length:,} characters, more than {self.settings.longest:,}"
                return [replace(draft, instruction=example.instruction[:LONGEST_SHOWN]).reject("too-long", reason)]
        answer = yield from asked(self._request(example), functools.partial(self._read, example))
        got = dict.fromkeys(TEXTS, "") | (answer.value or {})
        return [answer.of(replace(draft, instruction=got["instruction"], input=got["input"], output=got["output"]))]

    def finish(self, draft: Draft) -> Work:
        """The output in the target language, and what evolution and judge make of the row."""
        row = draft
        if self.settings.rewrite:
            task = f"{draft.instruction}\n\n{draft.input}" if draft.input else draft.instruction
            text = filled(ANSWER[self.within], language=self.language, task=task)
            answer = yield from asked(
                request_of(self.settings, text, "answer"), functools.partial(self._read_output, draft)
            )
            row = answer.of(replace(draft, output=answer.value or ""))
        rows = yield from finished(self.settings, row)
        return [self._still_intact(rows[0], draft), *rows[1:]]

    def _still_intact(self, row: Draft, draft: Draft) -> Draft:
        """The row; rejected where its instruction or input was written again and is not intact any more."""
        source = self.rows[draft.notes["item"]]
        same = (row.instruction, row.input) == (draft.instruction, draft.input)
        if row.rejected or same or isinstance(source, Rejected):
            return row
        faults = self._faults(source.example, {"instruction": row.instruction, "input": row.input})
        return row.reject(*faults[0]) if faults else row

    def _request(self, example: Example) -> Request:
        settings, within = self.settings, self.within
        source = settings.from_language and filled(FROM[within], from_language=name_of(settings.from_language, within))
        names = ("untranslatable", *self.fields)
        if is_json := wants_json(settings.teacher):
            task = json.dumps({name: getattr(example, name) for name in self.fields}, ensure_ascii=False, indent=1)
            form = IN_JSON[within].replace("{fields}", json.dumps(dict.fromkeys(names, "...") | {"untranslatable": ""}))
        else:
            label = {name: LABELS[name][within == "ko"] for name in names}
            task = "\n".join(f"{label[name]}: {getattr(example, name) or '<noinput>'}" for name in self.fields)
            form = IN_TEXT[within].replace("{fields}", "\n".join(f"{label[name]}: ..." for name in names))
        text = filled(TRANSLATE[within], from_language=source, language=self.language, task=task) + form
        schema = object_schema(**dict.fromkeys(names, TEXT)) if is_json else None
        return request_of(settings, text, "translation", schema)

    def _read(self, example: Example, reply: Reply) -> tuple[dict[str, str] | None, Fault | None]:
        """The fields of a translation, and what is wrong with them."""
        names = ("untranslatable", *self.fields)
        got = record(reply.text, [Field(name, LABELS[name], may_lack=True) for name in names], reply.finish)
        if isinstance(got, str):
            return None, unread(reply, got, self._told([got]))
        reason = got.pop("untranslatable")
        texts = {name: got[name] if getattr(example, name).strip() else "" for name in self.fields}
        if reason.strip().rstrip(".").lower() not in NO_REASON:
            texts["instruction"] = texts["instruction"] or example.instruction
            return texts, Fault("untranslatable", reason)
        if faults := self._faults(example, texts):
            reasons = [reason for _, reason in faults]
            return texts, Fault(faults[0][0], "; ".join(reasons), self._told(reasons))
        return texts, None

    def _faults(self, example: Example, texts: Mapping[str, str]) -> list[tuple[str, str]]:
        """Rule and reason of everything that is wrong with a translation."""
        settings = self.settings
        source_language = settings.from_language or example.language
        faults: list[tuple[str, str]] = []
        for name, text in texts.items():
            source = getattr(example, name)
            if source.strip() and not text.strip():
                faults.append(("empty-translation", f"{name} is empty"))
                continue
            lost = differences(source, text, source_language, settings.language)
            faults += [("not-intact", f"{name}: {difference}") for difference in lost]
            if is_untranslated(source, text, source_language, settings.language, is_prose=name == "instruction"):
                faults.append(("not-translated", f"{name} is not in {name_of(settings.language)}"))
            found = foreign_script(text, settings.language, texts["instruction"]) if settings.keep_scripts else ""
            if found := "".join(c for c in found if c not in source):
                reason = f"{name} holds a script that {name_of(settings.language)} does not use: {found}"
                faults.append(("wrong-script", reason))
        return faults

    def _told(self, reasons: list[str]) -> str:
        return filled(FAULT[self.within], faults="\n".join(f"- {r}" for r in reasons), language=self.language)

    def _read_output(self, draft: Draft, reply: Reply) -> tuple[str | None, Fault | None]:
        """The output of a task, and what is wrong with it."""
        text = without_thoughts(reply.text)
        if reply.finish in ("length", "content_filter"):
            return text, unread(reply, "")
        if not text:
            return text, Fault("output-empty", "output is empty")
        if reason := in_wrong_language(draft.instruction, text, self.settings.language):
            return text, Fault("wrong-language", reason, filled(ANSWER_FAULT[self.within], language=self.language))
        return text, None
