"""Questions that name the adapter they go to, one a line: `NAME: instruction`, or a JSON object with its fields."""

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
class Question:
    """adapter: a name in the store, or `base` for none. line: where it stands, 0 when it was not read."""

    adapter: str
    instruction: str
    input: str = ""
    line: int = field(default=0, compare=False)


def read(lines: Iterable[str]) -> list[Question]:
    """Every line that is not empty.

    Raises:
        UserError: a line is none of the two forms or not UTF-8, a name is no name, or there is no line.
    """
    found = []
    for number, line in enumerate(encoding.lines(lines), 1):
        line = line.removeprefix("\ufeff") if number == 1 else line  # some editors begin a file with it
        if not line.strip():
            continue
        question = _of(line.strip())
        if question is None or not question.instruction:
            raise UserError(f"not a question: {quoted(line.strip())}", f"line {number}", FORMS)
        if question.adapter != BASE:
            check(question.adapter, f"line {number}")
        found.append(replace(question, line=number))
    if not found:
        raise UserError("no questions on standard input", "", FORMS)
    return found


def _of(line: str) -> Question | None:
    if not line.startswith("{"):
        name, colon, instruction = line.partition(":")
        return Question(name.strip(), instruction.strip()) if colon else None
    try:
        fields = json.loads(line)
        "".join(fields.values()).encode()  # texts, and no half characters among them
        return Question(**fields) if fields.keys() <= FIELDS else None
    except (ValueError, TypeError, RecursionError):
        return None
