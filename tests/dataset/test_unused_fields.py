"""What an answer leans on is not lost in silence: a field with content that no form reads costs the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Source
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.row import RawRow
from pipeline.dataset.read.source import read


def rows(row: Any, **more: Any) -> list[RawRow]:
    return to_alpaca(RawRow(row, "f:1"), Source(path="f", **more))


def talk(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


QA = {"question": "q", "answer": "a"}
IO = {"instruction": "q", "output": "a"}
LOST: dict[str, tuple[dict[str, Any], str]] = {  # a row and how the reason goes on
    "definition": (
        {"definition": "d", "inputs": "i", "targets": "t"},
        "field 'definition' would be lost; say which is which: "
        "columns: {instruction: definition, input: inputs, output: targets}",
    ),
    "question": (
        {"instruction": "i", "question": "q", "answer": "a"},
        "field 'question' would be lost; say which is which: "
        "columns: {instruction: instruction, input: question, output: answer}",
    ),
    "prompt": (
        {"prompt": "p", "question": "q", "response": "r"},
        "field 'question' would be lost; say which is which: "
        "columns: {instruction: prompt, input: question, output: response}",
    ),
    "context": (
        {**IO, "input": "i", "context": "c"},
        "field 'context' would be lost; put it into one of these, or leave it out: "
        "columns: {instruction: instruction, input: input, output: output}",
    ),
    "empty input": ({**IO, "input": "", "context": "c"}, "field 'context' would be lost; say which is which: columns:"),
    "choices": (
        {**QA, "choices": ["x", "y"]},
        "field 'choices' would be lost; put it into one of these, or leave it out: "
        "columns: {instruction: question, output: answer}",
    ),
    "numbers": ({**QA, "options": [4, 5]}, "field 'options' would be lost"),
    "lettered": ({**QA, "A": "1", "B": "2", "C": "3", "D": ""}, "fields 'A', 'B', 'C' would be lost; put"),
    "numbered": ({**QA, "choice1": "x", "option_b": "y"}, "fields 'choice1', 'option_b' would be lost"),
    "passage": ({**QA, "Passage ": "p"}, "field 'Passage ' would be lost; say which is which: columns: {inst"),
    "part of a word": ({**QA, "question": "at 45 Road", "hint": "4"}, "field 'hint' would be lost"),
    "document, hint": ({**QA, "document": "d", "hint": "h"}, "fields 'document', 'hint' would be lost"),
    "Korean": ({"질문": "q", "답변": "a", "지문": "p"}, "field '지문' would be lost; say which is which: columns:"),
    "two spellings": ({"Instruction": "x", **IO}, "field 'Instruction' would be lost"),
    "text": ({**IO, "text": "a passage"}, "field 'text' would be lost; say which is which: columns: {in"),
    "picture": ({**IO, "image": b"\x89PNG"}, "'image' holds no text: only text can be learnt"),
    "two system messages": ({**IO, "system": "s", "system_prompt": "t"}, "field 'system_prompt' would be lost"),
    "beside a conversation": (
        {"instruction": "i", "conversations": talk("q", "a")},
        "field 'instruction' would be lost; put it into a message, or take it out",
    ),
    "history beside it": ({"history": [["x", "y"]], "messages": talk("q", "a")}, "field 'history' would be lost"),
    "more turns": ({**IO, "messages": talk("q", "a", "q2", "a2")}, "field 'messages' would be lost; put it"),
    "seeds": (
        {"instruction": "i", "context": "c", "instances": [{"output": "a"}]},
        "field 'context' would be lost; put it into the inputs, or take it out",
    ),
    "an instance": (
        {"instruction": "i", "instances": [{"input": "x", "context": "c", "output": "a"}]},
        "field 'context' would be lost; put it into the input, or take it out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_content_that_nobody_reads_costs_the_row(case: str) -> None:
    row, why = LOST[case]
    (found,) = rows(row)
    assert found.rule == "field-not-used"
    assert found.error.startswith(why)
    assert found.value is row


KEPT: dict[str, dict[str, Any]] = {
    "empty": {**QA, "choices": [], "hint": " ", "passage": None, "options": "[]", "table": {}, "context": None},
    "no number": {**QA, "document": float("nan")},
    "rendered, as tatsu-lab/alpaca": {**IO, "input": "", "text": "another wording"},
    "rendered without an input": {**IO, "text": "### Instruction:\nq\n### Response:\na"},
    "rendered with the system": {**IO, "system": "s", "text": "<s> s </s> q a"},
    "the input again": {**IO, "input": "c", "context": " c\n"},
    "the question in the prompt": {"prompt": "Read this.\nWhy?", "question": "Why?", "response": "a"},
    "choices in the question": {
        "question": "x or y?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "x",
    },
    "the same as messages": {**IO, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "the first turn as a prompt": {"prompt": "q", "messages": talk("q", "a", "q2", "a2")},
    "facts": {**QA, "id": "7", "url": "u", "title": "t", "source": "s", "score": 3, "lang": "en"},
    "other answers": {**IO, "chosen": "x", "rejected": "y", "rationale": "z", "answer": "w"},
    "null input": {**IO, "input": None, "context": "c"},
    "two letters": {"q": "q", "a": "a", "b": "x"},
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_says_nothing_new_costs_nothing(case: str) -> None:
    found = rows(KEPT[case])
    assert [raw.error for raw in found] == [""] * len(found)
    assert found[0].value["output"] == ("x" if case.startswith("choices") else "a")


def test_null_makes_room_for_another_name() -> None:
    (found,) = rows({**IO, "input": None, "context": "c", "system": None, "system_prompt": "s"})
    assert found.value == {"instruction": "s\n\nq", "input": "c", "output": "a", "task": "", "thread": ""}


def test_columns_decide() -> None:
    row = {**QA, "choices": ["x"], "kind": "k"}
    for columns in ({"instruction": "question"}, {"output": "answer"}, {"input": "kind"}):
        assert rows(row, columns=columns)[0].error == ""
    assert rows(row, columns={"task": "kind"})[0].rule == "field-not-used"  # says nothing about the texts


def test_an_answer_of_the_wrong_type_is_told_first() -> None:
    assert rows({"question": "q", "choices": ["x"], "answer": 0})[0].error == ""  # for `row.check`
    assert rows({"question": "q", "choices": ["x"]})[0].rule == "output-missing"


def test_rows_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,hint,answer\nq,,a\nq2,h,a2\n")
    source = Source(path=str(tmp_path / "a.csv"))
    assert [one.rule for raw in read(source, 0) for one in to_alpaca(raw, source) if one.error] == ["field-not-used"]
