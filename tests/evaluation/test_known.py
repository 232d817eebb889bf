"""What a base could do before tuning: reading the questions, marking answers, and the lines of the table."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.demo.families import FAMILIES, generate
from pipeline.evaluation.known import rows, shares
from pipeline.evaluation.known_questions import Question, file_hash, read_questions
from pipeline.run.errors import UserError
from pipeline.run.folder import Run

ROOT = Path(__file__).parents[2]
OPERATIONS = {"+": int.__add__, "plus": int.__add__, "-": int.__sub__, "minus": int.__sub__, "times": int.__mul__}


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("It is Seoul.", True),
        ("SEOUL", True),
        ("Seoulite", False),
        ("**Seoul**, of course", True),
        ("Korea", False),
        ("", False),
    ],
)
def test_an_answer_counts_as_whole_words(text: str, is_right: bool) -> None:
    assert Question("What is the capital of Korea?", ("Seoul",)).is_right(text) == is_right


def test_one_accepted_answer_is_enough() -> None:
    assert Question("How many?", ("7", "seven")).is_right("Seven days.")
    assert not Question("How many?", ("7", "seven")).is_right("17 days, or 7.5x")


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[1]",
        '{"answers": ["a"]}',
        '{"instruction": " "}',
        '{"instruction": "a", "answers": "b"}',
        '{"instruction": "a", "answers": [""]}',
        '{"instruction": "a", "kind": 3}',
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "known.jsonl"
    file.write_text('{"instruction": "a", "answers": ["b"]}\n\n' + line)
    with pytest.raises(UserError) as raised:
        read_questions(str(file))
    assert raised.value.where == f"{file}:3"


def test_none_and_missing_files(tmp_path: Path) -> None:
    assert read_questions("none") == []
    assert file_hash("none") == ""
    with pytest.raises(UserError) as raised:
        file_hash(str(tmp_path / "missing.jsonl"))
    assert raised.value.where == "eval.known"


def marks(kind: str, asked: str, passed: str) -> list[dict[str, Any]]:
    return [{"kind": kind, "asked": asked, "passed": mark == "1"} for mark in passed]


def test_kept_counts_only_what_the_base_answers_right() -> None:
    base = marks("fact", "right", "1101") + marks("request", "complete", "01")
    tuned = marks("fact", "right", "1010") + marks("request", "complete", "11")
    fact, request = shares(base, tuned)
    assert (fact["n"], fact["of"], fact["base"], fact["tuned"]) == (3, 4, 1.0, pytest.approx(1 / 3))
    assert fact["error"] == pytest.approx(1 / 3)  # sqrt(1/3 * 2/3 / 2)
    assert (request["n"], request["base"], request["tuned"]) == (2, 0.5, 1.0)
    assert rows(base, tuned) == [
        ("facts that the base knows: kept (3)", "3 of 4", "33.3% ± 33.3%"),
        ("everyday requests: end, no loop (2)", "50.0%", "100.0%"),
    ]


def test_a_base_that_knows_nothing_has_nothing_to_keep() -> None:
    assert rows(marks("sum", "right", "00"), marks("sum", "right", "11")) == [
        ("sums that the base knows: kept (0)", "0 of 2", "none to keep")
    ]


def test_an_export_has_the_lines(tuned: tuple[Config, Run]) -> None:
    results = json.loads((tuned[1].folder("export") / "results.json").read_text())
    assert [(k["kind"], k["asked"]) for k in results["tuned"]["known"]] == [("sum", "right"), ("request", "complete")]
    assert "kept (0)" in (tuned[1].folder("export") / "README.md").read_text()


def test_the_built_in_sums_are_right() -> None:
    questions = read_questions("")
    assert Counter(q.kind for q in questions) == {"fact": 40, "sum": 20, "request": 20}
    for question in questions:
        if question.kind == "sum":
            first, second, operation = _sum_of(question.instruction)
            assert str(OPERATIONS[operation](first, second)) == question.answers[0]


def _sum_of(text: str) -> tuple[int, int, str]:
    match = re.search(r"(\d+) (\+|plus|-|minus|times) (\d+)", text)
    assert match, text
    return int(match[1]), int(match[3]), match[2]


def test_the_demo_is_never_trained_on_them() -> None:
    """Neither the question, nor another wording of the same sum."""
    files = ("rehearsal.jsonl", "seed_tasks.en.jsonl", "seed_tasks.ko.jsonl")
    trained = [json.loads(line) for name in files for line in (ROOT / "data" / name).read_text("utf-8").splitlines()]
    trained += generate(600, 42, list(FAMILIES))
    texts = {_words(row["instruction"] + " " + row["input"]) for row in trained}
    sums = [re.match(r"(\d+) ([-+*]) (\d+) = ", row["output"]) for row in trained if row["task"] == "sum"]
    asked = {(int(m[1]), int(m[3]), m[2]) for m in sums if m}
    assert len(asked) == len(sums)
    for row in trained:
        if row["task"] == "small-sum":
            first, second = map(int, re.findall(r"\d+", row["instruction"]))
            asked.add((first, second, "+"))
    signs = {"plus": "+", "minus": "-", "times": "*"}
    for question in read_questions(""):
        assert _words(question.instruction) not in texts, question
        if question.kind == "sum":
            first, second, operation = _sum_of(question.instruction)
            assert (first, second, signs.get(operation, operation)) not in asked, question


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
