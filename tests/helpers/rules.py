"""Rows for the cleaning rules, and what one rule does to a row."""

from __future__ import annotations

from pipeline.dataset.clean.finding import Finding, Texts
from pipeline.dataset.clean.rule import RULES


def row(instruction: str = "Do it.", input: str = "", output: str = "Done.") -> Texts:
    return Texts(instruction, input, output)


def look(rule: str, texts: Texts, expected: str = "") -> Finding | None:
    return RULES[rule].look(texts, expected)


def mended(rule: str, texts: Texts) -> Texts:
    found = look(rule, texts)
    assert found is not None
    assert found.texts is not None
    assert look(rule, found.texts) is None  # nothing is left to mend
    return found.texts


def rejects(rule: str, texts: Texts, expected: str = "") -> bool:
    """Whether the rule rejects the row; a fix would be a surprise."""
    found = look(rule, texts, expected)
    assert found is None or found.texts is None
    return found is not None
