"""Question sets of conversations, which a chat template renders whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison import stage
from pipeline.comparison.answer_pairs import load_pairs
from pipeline.comparison.answering import fitting
from pipeline.comparison.questions import CompareQuestion, read_all
from pipeline.prompt.chat_template import FOLDER
from pipeline.run.errors import UserError
from tests.helpers.chat_runs import chat_config, make_chat_base
from tests.helpers.chats import chat_base, chat_encoder
from tests.helpers.tiny import run_to

S, U1, A1, U2, A2 = (
    {"role": role, "content": content}
    for role, content in (
        ("system", "Be brief."), ("user", "One?"), ("assistant", "First."), ("user", "Two?"), ("assistant", "Second.")
    )
)  # fmt: skip
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def read(folder: Path, *rows: dict[str, Any], whole: bool = True) -> list[CompareQuestion]:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_all([str(path)], whole=whole)[0]


@pytest.mark.parametrize(("messages", "reference"), [([S, U1, A1, U2], ""), ([S, U1, A1, U2, A2], "Second.")])
def test_a_conversation_is_one_question(tmp_path: Path, messages: list[Any], reference: str) -> None:
    (question,) = read(tmp_path, {"messages": messages, "id": 7})
    assert (question.id, question.instruction, question.reference) == ("7", "Two?", reference)
    assert question.input == "System: Be brief.\nUser: One?\nAssistant: First."
    assert list(question.conversation) == [S, U1, A1, U2]
    encoder = chat_encoder(chat_base(tmp_path / "base", "llama3", (FOLDER / "llama-3.jinja").read_text()))
    assert encoder.prompt_for(question.example()) == encoder.prompt_of([S, U1, A1, U2])
    assert question.as_dict()["conversation"] == [S, U1, A1, U2]


def test_single_questions_are_as_before(tmp_path: Path) -> None:
    rows = [{"instruction": "One?", "input": "x", "output": "A"}, {"messages": [U2]}, {"messages": [U1, A1]}]
    questions = read(tmp_path, *rows)
    assert [(q.instruction, q.input, q.reference) for q in questions] == [
        ("One?", "x", "A"), ("Two?", "", ""), ("One?", "", "First.")
    ]  # fmt: skip
    assert not any(q.conversation for q in questions)
    assert "conversation" not in questions[0].as_dict()
    (system,) = read(tmp_path, {"system": "Be brief.", "instruction": "One?"})
    assert list(system.conversation) == [S, U1]


def test_without_a_chat_template_each_answer_is_a_question(tmp_path: Path) -> None:
    first, second = read(tmp_path, {"messages": [U1, A1, U2, A2]}, whole=False)
    assert (first.instruction, second.instruction) == ("One?", "Two?")
    assert second.input == "User: One?\nAssistant: First."
    assert not second.conversation


def test_tools_are_part_of_the_question(tmp_path: Path) -> None:
    called = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    }
    (question,) = read(tmp_path, {"messages": [U1, called, {"role": "tool", "content": "3"}, A1], "tools": [TOOL]})
    assert question.input == 'Assistant: add {"a": 1}\nTool: 3'
    example = question.example()
    assert [turn.role for turn in example.turns] == ["user", "assistant", "tool", "assistant"]
    assert list(example.tools) == [TOOL]


def test_a_bad_conversation_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a question: message 3 is said by 'wizard'") as error:
        read(tmp_path, {"messages": [U1, A1, {"role": "wizard", "content": "x"}, U2]})
    assert error.value.where.endswith("set.jsonl:1, message 3")
    encoder = chat_encoder(
        chat_base(
            tmp_path / "base",
            "llama3",
            "{{ raise_exception('no') if messages|length > 2 }}" + (FOLDER / "llama-3.jinja").read_text(),
        )
    )
    questions = read(tmp_path, {"messages": [U1, A1, U2]})
    with pytest.raises(UserError, match="refuses this conversation") as error:
        fitting(encoder, questions, None, 10)
    assert error.value.where.endswith("set.jsonl:1")


def test_both_models_are_asked_whole_conversations(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(json.dumps({"messages": [S, U1, A1, U2]}) + "\n" + json.dumps({"instruction": "Hello?"}) + "\n")
    base = make_chat_base(tmp_path / "base", "llama")
    config = chat_config(tmp_path, base, f"compare.questions=[{path}]", "compare.max_new_tokens=3")
    run = run_to(config, "export", tmp_path)
    stage.build(config, run, {"key": 1})
    first, second = load_pairs(run.folder("compare"))
    assert list(first.question.conversation) == [S, U1, A1, U2]
    assert second.question.conversation == ()
    page = (run.folder("compare") / "page.html").read_text()
    assert "User: One?" in page
