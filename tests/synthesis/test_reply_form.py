"""Replies of a teacher, parsed."""

from __future__ import annotations

import json

import pytest

from pipeline.synthesis.reply_form import Field, record, records
from pipeline.synthesis.task_prompt import FIELDS

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello.", "classification": False}
TWO = json.dumps({"tasks": [ROW, {**ROW, "instruction": "Say bye."}]})


def names(text: str, finish: str = "stop") -> list[str]:
    return [row["instruction"] for row in records(text, "tasks", FIELDS, finish).whole]


@pytest.mark.parametrize(
    "text",
    [
        TWO,
        f"```json\n{TWO}\n```",
        f"Here they are:\n\n```\n{TWO}\n```\nShall I go on?",
        f"<think>\nTwo tasks, {{}} or so.\n</think>\n\n{TWO}",
        json.dumps(json.loads(TWO)["tasks"], indent=2),
    ],
)
def test_json_with_what_models_write_around_it(text: str) -> None:
    found = records(text, "tasks", FIELDS)
    assert names(text) == ["Say hello.", "Say bye."]
    assert found.whole[0] == ROW
    assert not found.faulty
    assert not found.is_cut


@pytest.mark.parametrize("lost", range(1, 70))
def test_a_cut_json_gives_its_whole_tasks(lost: int) -> None:
    """Wherever it was cut in the second task or behind it; with and without the server's word for it."""
    for finish in ("length", "stop"):
        found = records(TWO[:-lost], "tasks", FIELDS, finish)
        assert [row["instruction"] for row in found.whole] in (["Say hello."], ["Say hello.", "Say bye."])
        assert found.is_cut


def test_a_cut_fence_too() -> None:
    assert names(f"```json\n{TWO[:-20]}", "length") == ["Say hello."]


def test_json_that_is_broken_inside_is_not_guessed() -> None:
    found = records(TWO.replace('"Hello."', 'Hello."', 1), "tasks", FIELDS)
    assert not found.whole
    assert "not JSON" in found.problem
    assert "column" in found.problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"rows": []}, "no list 'tasks'"),
        ({"tasks": []}, "the list 'tasks' is empty"),
        ({"tasks": ["Say hello."]}, "a record is an object, this is text"),
        ({"tasks": [{"instruction": "Say hello.", "input": ""}]}, "no field 'output'"),
        ({"tasks": [{**ROW, "output": ["Hello."]}]}, "the field 'output' is a list"),
        ({"tasks": [{**ROW, "classification": "perhaps"}]}, "the field 'classification' is text"),
        ({"tasks": [{**ROW, "output": "\ud83d"}]}, "half of a pair"),
    ],
)
def test_what_is_wrong_is_named(value: object, problem: str) -> None:
    assert problem in records(json.dumps(value), "tasks", FIELDS).problem


def test_one_faulty_task_costs_only_itself() -> None:
    found = records(json.dumps({"tasks": [ROW, {"instruction": "Only this."}]}), "tasks", FIELDS)
    assert [row["instruction"] for row in found.whole] == ["Say hello."]
    assert found.faulty == [("a record has no field 'output'", '{"instruction": "Only this."}')]
    assert not found.problem


def test_null_numbers_and_noinput() -> None:
    value = {"instruction": "Add 2 and 3.", "input": None, "output": 5, "more": [1]}
    assert records(json.dumps([value]), "tasks", FIELDS).whole == [
        {"instruction": "Add 2 and 3.", "input": "", "output": "5", "classification": False}
    ]
    assert records(json.dumps([{**ROW, "input": "<noinput>"}]), "tasks", FIELDS).whole[0]["input"] == ""


def test_nesting_does_not_break_the_parser() -> None:
    assert "nested" in records("[" * 100_000, "tasks", FIELDS).problem


NUMBERED = """Sure, here are the tasks.

1. Instruction: Name the steps
of making tea.
Classification: no
Input: <noinput>
Output: 1. Boil water.
2. Pour it.
Input: this line belongs to the output.

**2. Instruction:** Is this spam?
**Input:** You won!
**Output:** spam
**Classification:** Yes
"""


def test_numbered_text() -> None:
    first, second = records(NUMBERED, "tasks", FIELDS).whole
    assert first["instruction"] == "Name the steps\nof making tea."
    assert first["input"] == ""
    assert first["output"].startswith("1. Boil water.\n2. Pour it.\nInput: this line")
    assert not first["classification"]
    assert second == {"instruction": "Is this spam?", "input": "You won!", "output": "spam", "classification": True}


def test_code_fences_in_and_around_numbered_text() -> None:
    text = 'Here:\n1. Instruction: Make an object.\nInput: <noinput>\nOutput:\n```json\n{"a": 1}\n```'
    [row] = records(text, "tasks", FIELDS).whole
    assert row["output"] == '```json\n{"a": 1}\n```'
    [again] = records(f"```\n{text}\n```", "tasks", FIELDS).whole
    assert again == row
    assert record(text, FIELDS) == row


def test_korean_labels() -> None:
    text = "1. 지시: 한 문장으로 요약하세요.\n분류: 아니요\n입력: 긴 글\n출력: 짧은 글"
    assert records(text, "tasks", FIELDS).whole == [
        {"instruction": "한 문장으로 요약하세요.", "input": "긴 글", "output": "짧은 글", "classification": False}
    ]


def test_the_last_numbered_task_of_a_cut_reply_is_dropped() -> None:
    assert names(NUMBERED, "length") == ["Name the steps\nof making tea."]
    found = records("1. Instruction: Name", "tasks", FIELDS, "length")
    assert found.problem == "the reply was cut off before its first record ended"


def test_text_without_the_form() -> None:
    assert "neither JSON nor text with the labels" in records("I had a nice day.", "tasks", FIELDS).problem


def test_a_single_record() -> None:
    fields = (Field("instruction", ("Instruction",)), Field("input", ("Input",), may_lack=True))
    expected = {"instruction": "Sing.", "input": ""}
    assert record('{"instruction": "Sing."}', fields) == expected
    assert record("Instruction: Sing.\nInput: <noinput>", fields) == expected
    assert record("1. Instruction: Sing.\n2. Instruction: Dance.", fields) == "2 records instead of one"
    assert record('{"instruction": "Sing."}', fields, "length") == "the reply was cut off"
    assert "no field" in str(record("{}", fields))
