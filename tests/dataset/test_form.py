"""Rows of every known form become instruction, input and output; nothing is dropped in silence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Source
from pipeline.dataset.example import Example
from pipeline.dataset.read import conversation
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.forms import form_name
from pipeline.dataset.read.row import RawRow, Rejected, check
from pipeline.dataset.read.source import read
from pipeline.run.errors import UserError


def rows(row: Any, **more: Any) -> list[RawRow]:
    found = to_alpaca(RawRow(row, "f:1"), Source(path="f", **more))
    assert found
    assert pickle.loads(pickle.dumps(found)) == found
    return found


def checked(row: Any, **more: Any) -> list[Example | Rejected]:
    return [check(raw, Source(path="f", **more)) for raw in rows(row, **more)]


def said(row: Any, **more: Any) -> list[tuple[str, ...]]:
    """What came of a row: the three texts of an example, or the rule that refused it."""
    return [(e.instruction, e.input, e.output) if isinstance(e, Example) else (e.rule,) for e in checked(row, **more)]


def reason(row: Any, **more: Any) -> str:
    (found,) = checked(row, **more)
    assert isinstance(found, Rejected)
    return f"{found.rule}: {found.reason}"


def talk(*said: str, **more: Any) -> dict[str, Any]:
    """OpenAI messages from words such as `u:hello`."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return {"messages": [{"role": roles[s[0]], "content": s[2:]} for s in said], **more}


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


# --- conversations


def test_every_answer_becomes_a_row_with_what_was_said_before() -> None:
    row = talk("s:Be kind.", "u:q1", "a:a1", "u:q2\nx", "a:a2", "u:q3", "a:a3")
    assert form_name(row) == "messages"
    assert said(row) == [
        ("Be kind.\n\nq1", "", "a1"),
        ("Be kind.\n\nq2\nx", "User: q1\nAssistant: a1", "a2"),
        ("Be kind.\n\nq3", "User: q1\nAssistant: a1\nUser: q2\nx\nAssistant: a2", "a3"),
    ]
    assert [raw.place for raw in rows(row)] == ["f:1, turn 1", "f:1, turn 2", "f:1, turn 3"]
    threads = {raw.value["thread"] for raw in rows(row)}
    assert len(threads) == 1
    assert threads == {e.thread for e in checked(row) if isinstance(e, Example)}
    assert all(len(t) == 16 and int(t, 16) >= 0 for t in threads)
    other = talk("s:Be kind.", "u:q1", "a:a1", "u:q2", "a:a2")
    assert {raw.value["thread"] for raw in rows(other)}.isdisjoint(threads)


def test_messages_that_are_no_text_are_told_plainly() -> None:
    def why(content: Any) -> str:
        return rows({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]})[
            0
        ].error

    assert why([{"type": "text", "text": {"value": "q"}}]) == "the text of message 1 is an object"
    assert why([{"type": "text", "text": None}]) == "the text of message 1 is null"
    assert why(5) == "the text of message 1 is a number"
    assert why([{"type": "image"}]) == "message 1 holds 'image', and only text can be learnt"


def test_one_question_and_answer_has_no_thread() -> None:
    (raw,) = rows(talk("u:q", "a:a"))
    assert (raw.place, raw.value["thread"]) == ("f:1", "")


CONVERSATIONS: dict[str, Any] = {
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "other names": {"conversation": [{"from": "User", "text": "q"}, {"role": "BOT", "value": "a"}]},
    "texts in turn": {"conversations": ["q", "a"]},
    "pairs": {"conversation": [{"input": "q", "output": "a"}]},
    "as JSON text": {"messages": json.dumps(talk("u:q", "a:a")["messages"])},
    "as lists": {"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}},
    "beside a prompt": {"prompt": "q", "prompt_id": "x", **talk("u:q", "a:a")},
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": None, "weight": 1},
        ]
    },
}


SHAREGPT = ("sharegpt", "other names", "as lists")


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_spellings_of_one_conversation(case: str) -> None:
    assert said(CONVERSATIONS[case]) == [("q", "", "a")]
    assert form_name(CONVERSATIONS[case]) == ("sharegpt" if case in SHAREGPT else "messages")


ODD_TALKS: dict[str, tuple[Any, list[tuple[str, ...]]]] = {
    "two user turns": (talk("u:q1", "u:q2", "a:a"), [("q1\n\nq2", "", "a")]),
    "two answers": (talk("u:q", "a:a1", "a:a2"), [("q", "", "a1\n\na2")]),
    "two system messages": (talk("s:s1", "s:s2", "u:q", "a:a"), [("s1\n\ns2\n\nq", "", "a")]),
    "system field": ({"system": "s", **talk("u:q", "a:a")}, [("s\n\nq", "", "a")]),
    "begins with the assistant": (talk("a:Hello!", "u:q", "a:a"), [("q", "Assistant: Hello!", "a")]),
    "only the assistant": (talk("a:Hello!"), [("no-question",)]),
    "ends with the user": (talk("u:q", "a:a", "u:q2"), [("q", "", "a"), ("no-answer",)]),
    "only the user": (talk("u:q"), [("no-answer",)]),
    "only a system message": (talk("s:s"), [("no-question",)]),
    "no messages": (talk(), [("no-question",)]),
    "late system message": (talk("u:q", "a:a", "s:s", "u:q2", "a:a2"), [("q", "", "a"), ("late-system-message",)]),
    "empty question": (talk("u: ", "a:a"), [("empty-turn",)]),
    "empty answer": (talk("u:q", "a:a", "u:q2", "a:", "u:q3", "a:a3"), [("q", "", "a"), ("empty-turn",)]),
    "tool": (talk("u:q", "a:a", "t:x", "a:a2"), [("tool-call",)]),
    "tool later": (talk("u:q", "a:a", "u:q2", "a:a2", "t:x", "a:a3"), [("q", "", "a"), ("tool-call",)]),
    "unknown speaker": ({"messages": [{"role": "narrator", "content": "x"}]}, [("unknown-speaker",)]),
    "no speaker": ({"messages": [{"content": "x"}]}, [("unknown-speaker",)]),
    "tool calls": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        [("tool-call",)],
    ),
    "picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        [("not-text",)],
    ),
    "number": ({"messages": [{"role": "user", "content": 5}]}, [("not-text",)]),
    "no content": ({"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}, [("empty-turn",)]),
    "message of text": ({"messages": [{"role": "user", "content": "q"}, "a"]}, [("not-a-conversation",)]),
    "text": ({"messages": "[{'role': 'user'}]"}, [("not-a-conversation",)]),
    "object": ({"conversations": {"from": "human"}}, [("not-a-conversation",)]),
    "lists of two lengths": ({"conversations": {"from": ["human"], "value": []}}, [("not-a-conversation",)]),
    "not to be learnt": (
        {"messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "bad", "weight": 0},
            {"role": "user", "content": "no"}, {"role": "assistant", "content": "a", "weight": 1},
        ]},
        [("weight-zero",), ("no", "User: q\nAssistant: bad", "a")],
    ),
    "surrogate": (talk("u:\ud800", "a:a", "u:q", "a:b"), [("invalid-utf-8",), ("invalid-utf-8",)]),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD_TALKS)
def test_odd_conversations(case: str) -> None:
    row, expected = ODD_TALKS[case]
    assert said(row) == expected


def test_a_refused_turn_says_where_it_stands() -> None:
    row = talk("u:q", "a:a", "u:q2", "a:b", "u:q3", "a: ")
    bad = rows(row)[-1]
    assert (bad.place, bad.rule) == ("f:1, turn 3", "empty-turn")
    assert bad.error == "message 6 (assistant) is empty; it and what follows is left out"
    assert bad.value is row
    assert rows(talk("u:q"))[0].place == "f:1"


def test_a_long_conversation_keeps_the_last_whole_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "HISTORY", len("User: q2\nAssistant: a2"))
    row = talk("s:Be kind.", "u:q1", "a:a1", "u:q2", "a:a2", "u:q3", "a:a3", "u:" + "long" * 9, "a:a4", "u:q5", "a:a5")
    assert [text for _, text, _ in said(row)] == [
        "",
        "User: q1\nAssistant: a1",
        "User: q2\nAssistant: a2",
        "User: q3\nAssistant: a3",
        f"User: {'long' * 9}\nAssistant: a4",  # longer, but the last exchange
    ]
    assert {question for question, _, _ in said(row)} >= {"Be kind.\n\nq5"}
    greeted = talk("a:Hello", "u:q1", "a:a1", "u:q2", "a:a2", "u:q3", "a:a3")
    assert [text for _, text, _ in said(greeted)] == [
        "Assistant: Hello", "User: q1\nAssistant: a1", "User: q2\nAssistant: a2"
    ]  # fmt: skip


def test_a_conversation_of_many_turns_does_not_write_its_square() -> None:
    row = talk(*(f"{who}:word {k}" for k in range(1000) for who in "ua"))
    found = rows(row)
    assert len(found) == 1000
    assert max(len(raw.value["input"]) for raw in found) <= conversation.HISTORY == 8_000
    assert found[-1].value["input"].endswith("User: word 998\nAssistant: word 998")
    assert found[-1].value["input"].startswith("User: ")
    unlearnt = {"messages": [{**m, "weight": 0} for m in row["messages"]]}
    assert all(raw.rule == "weight-zero" for raw in rows(unlearnt))
    assert rows(unlearnt)[-1].value == found[-1].value  # not the whole conversation a thousand times


def test_history_of_an_alpaca_row() -> None:
    row = {"instruction": "q2", "input": "i", "output": "a2", "system": "s", "history": [["q1", "a1"]]}
    assert said(row) == [("s\n\nq1", "", "a1"), ("s\n\nq2\n\ni", "User: q1\nAssistant: a1", "a2")]
    assert said({**row, "history": []}) == [("s\n\nq2", "i", "a2")]
    assert reason({**row, "history": "x"}).startswith("not-a-conversation: history")


def test_rows_that_this_pipeline_wrote_keep_their_thread() -> None:
    (first, _) = checked(talk("u:q", "a:a", "u:q2", "a:b"))
    assert isinstance(first, Example)
    assert checked(first.as_dict()) == [first]
    (other,) = checked({"instruction": "q", "output": "a", "thread": "a forum's name"})
    assert isinstance(other, Example)
    assert other.thread == ""
