"""Rows of every known form become instruction, input and output; no row is dropped without a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Source
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.forms import form_name
from pipeline.dataset.read.row import RawRow, Rejected, check
from pipeline.dataset.read.source import read
from pipeline.run.errors import UserError
from tests.helpers.forms import checked, reason, rows, said, talk

# --- one row, one question

FLAT: dict[str, tuple[str, dict[str, Any], tuple[str, str, str]]] = {
    "alpaca": ("alpaca", {"instruction": "q", "input": "i", "output": "a"}, ("q", "i", "a")),
    "alpaca without input": ("alpaca", {"instruction": "q", "output": "a"}, ("q", "", "a")),
    "alpaca of the hub": ("alpaca", {"instruction": "q", "input": "", "output": "a", "text": "q a"}, ("q", "", "a")),
    "response": ("alpaca", {"instruction": "q", "response": "a"}, ("q", "", "a")),
    "capitals": ("alpaca", {"Instruction": "q", " Input": "i", "OUTPUT ": "a"}, ("q", "i", "a")),
    "as it is wins": ("alpaca", {"Instruction": "", "instruction": "q", "output": "a"}, ("q", "", "a")),
    "koalpaca 1.1": ("koalpaca", {"instruction": "q", "output": "a", "url": "http"}, ("q", "", "a")),
    "dolly": (
        "dolly", {"instruction": "q", "context": "c", "response": "a", "category": "open_qa"}, ("q", "c", "a")
    ),
    "prompt": ("prompt/completion", {"prompt": "q", "completion": "a"}, ("q", "", "a")),
    "prompt, response": ("prompt/completion", {"prompt": "q", "response": "a"}, ("q", "", "a")),
    "question": ("question/answer", {"question": "q", "answer": "a"}, ("q", "", "a")),
    "question, context": ("question/answer", {"context": "c", "question": "q", "answer": "a"}, ("q", "c", "a")),
    "Q and A": ("question/answer", {"Q": "q", "A": "a", "label": "0"}, ("q", "", "a")),
    "q and a": ("question/answer", {"q": "q", "a": "a"}, ("q", "", "a")),
    "Korean names": ("question/answer", {"질문": "q", "답변": "a"}, ("q", "", "a")),
    "query": ("question/answer", {"query": "q", "response": "a"}, ("q", "", "a")),
    "flan": ("inputs/targets", {"inputs": "q", "targets": "a"}, ("q", "", "a")),
    "orca": ("question/answer", {"system_prompt": "s", "question": "q", "response": "a"}, ("s\n\nq", "", "a")),
    "empty system": ("alpaca", {"system": " ", "instruction": "q", "output": "a"}, ("q", "", "a")),
    "null system": ("alpaca", {"system": None, "instruction": "q", "output": "a"}, ("q", "", "a")),
    "null of other forms": (
        "prompt/completion", {"instruction": None, "output": None, "prompt": "q", "completion": "a"}, ("q", "", "a")
    ),
    "unused messages": (
        "alpaca", {"messages": None, "instruction": "q", "input": None, "output": "a"}, ("q", "", "a")
    ),
    "empty output": ("alpaca", {"instruction": "q", "output": ""}, ("q", "", "")),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAT)
def test_forms_of_one_question(case: str) -> None:
    name, row, texts = FLAT[case]
    assert form_name(row) == name
    assert said(row) == [texts]
    assert rows(row)[0].place == "f:1"


def test_a_row_in_alpaca_form_is_passed_on_as_it_is() -> None:
    raw = RawRow({"instruction": "q", "output": "a", "id": 3}, "f:1")
    assert to_alpaca(raw, Source(path="f"))[0] is raw
    broken = RawRow({"prompt": "q"}, "f:1", "broken", "ragged")
    assert to_alpaca(broken, Source(path="f")) == [broken]
    assert reason([1]) == "not-an-object: a row is an object, this is a list"


REFUSED = {
    "unknown": ({"x": 1, "y": 2}, "instruction-missing: no field 'instruction' (fields: 'x', 'y')"),
    "only output": ({"input": "q", "output": "a"}, "instruction-missing: no field 'instruction'"),
    "no output": ({"instruction": "q"}, "output-missing: no field 'output' (form: alpaca; fields: 'instruction')"),
    "no completion": ({"prompt": "q"}, "output-missing: no field 'completion' (form: prompt/completion; fields:"),
    "no answer": ({"question": "q", "choices": []}, "output-missing: no field 'answer' (form: question/answer"),
    "no targets": ({"inputs": "q"}, "output-missing: no field 'targets' (form: inputs/targets"),
    "index for an answer": ({"question": "q", "choices": ["a"], "answer": 0}, "output-not-text: output is a number"),
    "text": ({"text": "q a"}, "text-only: plain text"),
    "system": ({"system": 1, "instruction": "q", "output": "a"}, "system-not-text: the field 'system'"),
    "no instances": ({"instruction": "q", "instances": []}, "no-instances: its list of instances is empty"),
    "instances are text": ({"instruction": "q", "instances": "x"}, "no-instances: its list"),
    "all null": ({"instruction": None, "output": None}, "instruction-not-text: instruction is null"),
    "null conversation": ({"messages": None}, "not-a-conversation: the conversation is not a list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_refused_with_form_and_field(case: str) -> None:
    row, why = REFUSED[case]
    assert reason(row).startswith(why)


def task_of(row: Any, **more: Any) -> str:
    (found,) = checked(row, **more)
    assert isinstance(found, Example)
    return found.task


def test_where_a_task_comes_from() -> None:
    row = {"instruction": "q", "output": "a"}
    assert task_of(row) == ""
    assert task_of(row, task="mine") == "mine"
    assert task_of({**row, "task": " own\n"}, task="mine") == "own"
    assert task_of({**row, "task": 3}, task="mine") == "mine"
    assert task_of({**row, "context": "", "response": "a", "category": "qa"}) == "qa"
    assert task_of({**row, "category": "qa", "task": "own"}) == "own"
    assert task_of({**talk("u:q", "a:a"), "category": "chat"}) == "chat"
    assert task_of({"Q": "q", "A": "a", "label": 2}, columns={"task": "label"}) == "2"
    assert task_of({"Q": "q", "A": "a", "label": None}, columns={"task": "label"}, task="mine") == "mine"
    assert task_of({**talk("u:q", "a:a"), "topic": "chat"}, columns={"task": "topic"}) == "chat"


def test_exact_and_source_of_the_config() -> None:
    (example,) = checked({"prompt": "q", "completion": "a"}, exact=True)
    assert example == Example.of("q", "", "a", source="f", exact=True)


# --- columns

COLUMNS = {
    "all": ({"x": "q", "y": "c", "z": "a"}, {"instruction": "x", "input": "y", "output": "z"}, ("q", "c", "a")),
    "before the form": ({"instruction": "no", "t": "q", "output": "a"}, {"instruction": "t"}, ("q", "", "a")),
    "the rest from the form": ({"question": "q", "answer": "no", "best": "a"}, {"output": "best"}, ("q", "", "a")),
    "another input": ({"question": "q", "answer": "a", "hint": "h"}, {"input": "hint"}, ("q", "h", "a")),
    "swapped": ({"Q": "a", "A": "q"}, {"instruction": "A", "output": "Q"}, ("q", "", "a")),
    "as it is": ({"instruction": "q", "output": "a"}, {"output": "output"}, ("q", "", "a")),
    "of text": ({"text": "q", "label": "a"}, {"instruction": "text", "output": "label"}, ("q", "", "a")),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_come_first(case: str) -> None:
    row, columns, texts = COLUMNS[case]
    assert said(row, columns=columns) == [texts]


def test_columns_must_be_there() -> None:
    assert reason({"instruction": "q", "output": "a"}, columns={"output": "Best"}).startswith(
        "output-missing: no field 'Best' (form: columns; fields: 'instruction', 'output')"
    )
    assert reason({"x": "q", "y": "a"}, columns={"instruction": "x"}).startswith("output-missing: no field 'output'")


@pytest.mark.parametrize(
    ("header", "columns", "what", "line"),
    [
        ("Nr,Instructon,Respnse", {}, "no column holds a known question", "{instruction: Instructon, output: Respnse}"),
        ("one,two", {}, "no column holds a known question", "{instruction: one, output: two}"),
        ("one,two,three", {}, "no column holds a known question", "{instruction: ?, output: ?}"),
        ("one,two,response", {}, "no column holds a known question", "{instruction: ?, output: response}"),
        ("번호,문의,회신", {}, "no column holds a known question", "{instruction: 문의, output: 회신}"),
        ("지시문,입력,출력", {}, "no column holds", "{instruction: 지시문, input: 입력, output: 출력}"),
        ("명령어,지문,정답,날짜", {}, "no column holds", "{instruction: 명령어, input: 지문, output: 정답}"),
        ("지시번호,질의,대답,날짜", {}, "no column holds", "{instruction: 질의, output: 대답}"),
        ("질문 내용,답변 내용,x", {}, "no column holds", "{instruction: 질문 내용, output: 답변 내용}"),
        ("id,instruction_ko,input_ko,output_ko", {}, "no column", "_ko, input: input_ko, output: output_ko}"),
        ("question_id,user_question,answer", {}, "no column", "{instruction: user_question, output: answer}"),
        ("text,label", {}, "no column holds", "{instruction: text, output: label}"),
        ("ask,rejected", {}, "no column holds", "{instruction: ?, output: ?}"),
        ("question,best", {}, "no column 'answer'", "{instruction: question, output: best}"),
        ("Q,A,kind", {"task": "knd"}, "no column 'knd'", "task: kind}"),
        (
            "frage,antwort",
            {"instruction": "Frage", "output": "antwort"},
            "no column 'Frage'",
            "{instruction: frage, output: antwort}",
        ),
        (
            "q,a,kind_id",
            {"instruction": "Q", "task": "kind_id"},
            "no column 'Q'",
            "{instruction: q, output: a, task: kind_id}",
        ),
    ],
)
def test_a_table_without_the_columns(
    tmp_path: Path, header: str, columns: dict[str, str], what: str, line: str
) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n{header}\n")
    with pytest.raises(UserError) as caught:
        list(read(Source.model_validate({"path": str(tmp_path / "a.csv"), "columns": columns}), 0))
    assert what in caught.value.what
    assert all(repr(name) in caught.value.what for name in header.split(","))
    assert line in caught.value.fix


# --- seeds


def test_each_instance_is_a_row() -> None:
    row = {"name": "n", "instruction": "q", "instances": [{"input": "1", "output": "a"}, {"output": "b"}, {"x": 1}, 5]}
    assert form_name(row) == "seeds"
    assert said(row) == [("q", "1", "a"), ("q", "", "b"), ("output-missing",), ("output-missing",)]
    assert [raw.place for raw in rows(row)] == [f"f:1, instance {k}" for k in (1, 2, 3, 4)]
    one = {"instruction": "q", "instances": [{"input": "", "output": "a"}], "is_classification": True}
    assert rows(one)[0].place == "f:1"
    assert (task_of(one), task_of({**one, "is_classification": False}, task="mine")) == ("classification", "mine")
    assert all(isinstance(e, Rejected) or e.thread == "" for e in checked(row))


def test_the_system_message_of_seeds() -> None:
    row = {"system": "s", "instruction": "q", "instances": [{"output": "a"}, {"output": "b"}]}
    assert said(row) == [("s\n\nq", "", "a"), ("s\n\nq", "", "b")]
    assert said({**row, "system": " "})[0] == ("q", "", "a")
    assert reason({**row, "system": 5}).startswith("system-not-text")


def test_the_seed_tasks_of_self_instruct(shared_data: Path) -> None:
    source = Source(path=str(shared_data / "self_instruct_seed_tasks.jsonl"))
    found = [check(one, source) for raw in read(source, 0) for one in to_alpaca(raw, source)]
    assert len(found) == 175
    assert all(isinstance(e, Example) for e in found)


def test_korean_questions_and_answers(shared_data: Path) -> None:
    source = Source.model_validate({"path": str(shared_data / "korean_chatbot.csv"), "columns": {"task": "label"}})
    found = [check(one, source) for raw in read(source, 0) for one in to_alpaca(raw, source)]
    assert len(found) == 11_823
    assert {e.task for e in found if isinstance(e, Example)} == {"0", "1", "2"}
