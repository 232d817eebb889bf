"""What a base could do before tuning and should still do: questions that it answers right, and everyday requests.

A file of JSONL rows, `eval.known`; the built-in one, `known.jsonl`, has facts, sums and requests in English and two
requests in Korean, written for this project and never trained on:

    {"kind": "fact", "instruction": "What is the capital of Korea?", "answers": ["Seoul"]}
    {"kind": "request", "instruction": "Write a birthday wish for my grandmother."}

With `answers`: the answer is right when it holds one of them as whole words. Without: it is a request, whose answer
can only be complete or not (`evaluation.known`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.encoding import read_text
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file
from pipeline.run.json_file import json_or_none

BUILT_IN = Path(__file__).with_name("known.jsonl")
KEY = "eval.known"
FIX = 'JSONL with `instruction`, `answers` (a list) where answers can be right, and optionally `kind`; or "none"'


@dataclass(frozen=True)
class Question:
    """answers: accepted ones; none for a request, whose answer can only be complete or not."""

    instruction: str
    answers: tuple[str, ...] = ()
    kind: str = "fact"

    def is_right(self, text: str) -> bool:
        """Whether the text holds an accepted answer as whole words or a whole number, in capital or small letters."""
        alone = (rf"(?<!\w)(?<!\d[.,]){re.escape(a)}(?!\w)(?![.,]\d)" for a in self.answers)
        return any(re.search(pattern, text, re.IGNORECASE) for pattern in alone)


def file_hash(named: str) -> str:
    """SHA-256 of the file, for the key of the export; empty for `none`.

    Raises:
        UserError: no such file.
    """
    path = _path(named)
    return sha256_file(path) if path else ""


def read_questions(named: str) -> list[Question]:
    """The questions of the file; none for `none`.

    Raises:
        UserError: no such file, not UTF-8, or a line that is no question (named).
    """
    path = _path(named)
    lines = read_text(path).split("\n") if path else []
    return [_question(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def _path(named: str) -> Path | None:
    if named == "none":
        return None
    path = Path(named) if named else BUILT_IN
    if not path.is_file():
        raise UserError(f"no such file: {named}", KEY, FIX)
    return path


def _question(line: str, place: str) -> Question:
    row = json_or_none(line)
    if not isinstance(row, dict):
        raise UserError("no JSON object", place, FIX)
    answers = row.get("answers", [])
    if not (isinstance(answers, list) and all(isinstance(a, str) and a.strip() for a in answers)):
        raise UserError("`answers` is no list of texts", place, FIX)
    kind = row.get("kind", "fact" if answers else "request")
    instruction = row.get("instruction")
    if not (isinstance(instruction, str) and instruction.strip() and isinstance(kind, str) and kind.strip()):
        raise UserError("`instruction` or `kind` is missing or no text", place, FIX)
    return Question(instruction, tuple(a.strip() for a in answers), kind)
