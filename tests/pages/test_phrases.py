"""Texts of pages: both languages have every text with the same values, and no page shows a text of one alone."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest

from pipeline.dataset.clean.rule import RULES
from pipeline.dataset.summary import MEANINGS
from pipeline.pages.phrases import (
    Phrase,
    attribute,
    html_of,
    joined,
    labelled,
    phrase,
    rule_text,
    script_texts,
    tables,
)
from pipeline.pages.rows import select

ROOT = Path(__file__).parents[2]
FOLDERS = ("pages", "data_report", "run_report", "comparison", "training", "synthesis_report")
HANGUL = re.compile("[가-힣]")
WORDS = re.compile("[A-Za-z]")
SIGNS = {"of-n", "js-range", "span"}  # texts of signs alone in Korean


def values_of(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_tables_have_the_same_texts_with_the_same_values() -> None:
    english, korean = tables()["en"], tables()["ko"]
    assert english.keys() == korean.keys()
    assert [key for key in english if values_of(english[key]) != values_of(korean[key])] == []
    assert [key for key in english if HANGUL.search(english[key])] == []
    without = {key for key in korean if not HANGUL.search(korean[key])}
    assert (
        without <= {key for key in english if not WORDS.search(re.sub(r"\{[^}]*\}|`[^`]*`", "", english[key]))} | SIGNS
    )


def calls() -> tuple[set[str], list[str]]:
    """Keys that the pages' code names, and the starts of those that it puts together."""
    whole, starts = set(), []
    for folder in FOLDERS:
        for path in (ROOT / "pipeline" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    whole.add(node.value)
                elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                    starts.append(str(node.values[0].value))
    return whole, starts


def test_every_text_is_used_and_every_text_that_is_used_is_there() -> None:
    whole, starts = calls()
    scripts = "".join(path.read_text() for path in (ROOT / "pipeline").glob("*/*.js"))
    said = set(re.findall(r'say\("([\w-]+)"', scripts))
    assert said == {key[3:] for key in tables()["en"] if key.startswith("js-")}
    unused = [key for key in tables()["en"] if not key.startswith("js-") and key not in whole]
    unused = [key for key in unused if not any(key.startswith(start) for start in starts if start)]
    assert unused == []
    missing = []
    for folder in FOLDERS:
        for path in (ROOT / "pipeline" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "phrase":
                    key = node.args[0]
                    if isinstance(key, ast.Constant) and key.value not in tables()["en"]:
                        missing.append(f"{path.name}: {key.value}")
    assert missing == []


def test_values_are_filled_in_by_language() -> None:
    made = phrase("tip-rows", name=phrase("word-val"), rows="5")
    assert (made, made.korean) == ("val: 5 rows", "검증: 5행")
    both = joined([made, "", "x"], "; ")
    assert (both, both.korean) == ("val: 5 rows; x", "검증: 5행; x")
    with pytest.raises(KeyError):
        phrase("tip-rows", name="x")


def test_html_has_both_languages_and_no_hostile_element() -> None:
    hostile = '<img src=x onerror="x">'
    made = phrase("tip-rows", name=hostile, rows="1")
    for html in (html_of(made), attribute("data-tip", made), html_of(phrase("no-plan", why=f"`{hostile}`"))):
        assert "<img" not in html
        assert 'onerror="' not in html
        assert "행" in html or "없습니다" in html
    assert html_of(phrase("not-finished", step="5")).count("<code>make train CONFIG=...</code>") == 2
    assert html_of("plain <b>") == "plain &lt;b&gt;"
    assert 'data-tip-ko="' in attribute("data-tip", made)
    assert '<option value="word" data-ko="낱말">word</option>' in select("rule", {"word": Phrase("word", "낱말")})


def test_every_rule_of_the_data_stage_has_its_korean_description() -> None:
    rules = tables()["rules"]
    assert rules.keys() == {*RULES, *MEANINGS}
    assert [rule for rule, text in rules.items() if not HANGUL.search(text)] == []
    assert html_of(rule_text("limit", "Left <out>")).startswith('<span data-ko="제외')
    assert rule_text("unknown", "x") == rule_text("limit", "") + "x" == "x"


def test_labels_of_other_modules_are_translated_word_by_word() -> None:
    label = labelled("held-out rows: exact match (64 answers)")
    assert label == "held-out rows: exact match (64 answers)"
    assert label.korean == "검증 데이터: 정답 일치 (64 답변)"
    assert labelled("glossary losses").korean == "glossary losses", "whole words alone"
    assert script_texts()["ko"]["of"].format(at=1, count=2) == "2개 중 1번째"
