"""Questions to named adapters, one per line: `NAME: instruction`, or a JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipeline.config.adapter_name import BASE, check
from pipeline.run import encoding
from pipeline.run.errors import UserError
from pipeline.run.terminal import quoted

FORMS = 'write "NAME: instruction", or {"adapter": ..., "instruction": ..., "input": ...}; base: asks the base alone'
FIELDS = {"adapter", "instruction", "input"}


@dataclass(frozen=True)
class AdapterQuestion:
    """adapter: a name in the store, or `base` for none. line: number of its line, 0 when it was not read from one."""

    adapter: str
    instruction: str
    input: str = ""
    line: int = field(default=0, compare=False)


def read_questions(lines: Iterable[str]) -> list[AdapterQuestion]:
    """The questions of all lines that are not empty.

    Raises:
        UserError: a line has neither form or is not UTF-8, a name is not valid, or there are no questions.
    """
    questions = []
    for number, line in enumerate(encoding.lines(lines), 1):
        line = line.removeprefix("\ufeff") if number == 1 else line  # the byte order mark of some editors
        if not line.strip():
            continue
        question = _parse(line.strip())
        if question is None or not question.instruction:
            raise UserError(f"not a question: {quoted(line.strip())}", f"line {number}", FORMS)
        if question.adapter != BASE:
            check(question.adapter, f"line {number}")
        questions.append(replace(question, line=number))
    if not questions:
        raise UserError("no questions on standard input", "", FORMS)
    return questions


def _parse(line: str) -> AdapterQuestion | None:
    if not line.startswith("{"):
        name, colon, instruction = line.partition(":")
        return AdapterQuestion(name.strip(), instruction.strip()) if colon else None
    try:
        fields = json.loads(line)
        "".join(fields.values()).encode()  # fails unless all are text without lone surrogates
        return AdapterQuestion(**fields) if fields.keys() <= FIELDS else None
    except (ValueError, TypeError, RecursionError):
        return None
