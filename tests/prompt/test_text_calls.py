"""Calls in text become calls of a template that knows tools, or stay text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.example import Example
from pipeline.dataset.turn import Turn
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.chat_template import FOLDER
from tests.helpers.chats import chat_base, chat_encoder

TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
}
HERMES = (
    f"You are a function calling AI model. Call as <tool_call>...</tool_call>.\n<tools>[{json.dumps(TOOL)}]</tools>"
)
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
RESPONSE = "<tool_response>\n3\n</tool_response>"


@pytest.fixture
def qwen(shared_data: Path, tmp_path: Path) -> ChatEncoder:
    return chat_encoder(
        chat_base(tmp_path / "base", "qwen", (shared_data / "chat_templates" / "qwen2_5.jinja").read_text())
    )


def hermes(*turns: tuple[str, str], system: str = HERMES, tools: tuple[Any, ...] = ()) -> Example:
    return Example.whole([Turn(role, text) for role, text in turns], source="test", system=system, tools=tools)


def native(*messages: dict[str, Any], system: str = "") -> Example:
    turns = [Turn.of(message) for message in messages]
    return Example.whole(turns, source="test", system=system, tools=(TOOL,))


CALLED = {
    "role": "assistant", "content": "",
    "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
}  # fmt: skip
Q, A = {"role": "user", "content": "Add."}, {"role": "assistant", "content": "It is 3."}
R = {"role": "tool", "content": "3", "tool_call_id": "call00001"}


def test_the_row_is_that_of_real_calls(qwen: ChatEncoder) -> None:
    assert qwen.form.knows_tools
    text = hermes(("user", "Add."), ("assistant", CALL), ("tool", RESPONSE), ("assistant", "It is 3."))
    row, wanted = qwen.rows([text, native(Q, CALLED, R, A)])
    assert not row.problem
    assert (row.ids, row.labels) == (wanted.ids, wanted.labels)
    assert qwen.prompt_for(text) == qwen.prompt_for(native(Q, CALLED, R, A))
    only_call = hermes(("user", "Add."), ("assistant", CALL))
    assert qwen.rows([only_call])[0].ids == qwen.rows([native(Q, CALLED)])[0].ids


def test_other_words_of_the_system_message_stay(qwen: ChatEncoder) -> None:
    system = f"Be kind.\n<tools>[{json.dumps(TOOL)}]</tools>"
    text = hermes(("user", "Add."), ("assistant", CALL), system=system)
    assert qwen.rows([text])[0].ids == qwen.rows([native(Q, CALLED, system="Be kind.")])[0].ids
    given = hermes(("user", "Add."), ("assistant", CALL), system="Be kind.", tools=(TOOL,))
    assert qwen.rows([given])[0].ids == qwen.rows([native(Q, CALLED, system="Be kind.")])[0].ids


@pytest.mark.parametrize(
    ("turns", "system"),
    [
        ((("user", "Add."), ("assistant", CALL.replace("add", "unknown"))), HERMES),
        ((("user", "Add."), ("assistant", "<tool_call>add</tool_call>")), HERMES),
        ((("user", "Add."), ("assistant", CALL), ("user", "And?"), ("assistant", "x")), HERMES),
        ((("user", "Add."), ("assistant", CALL), ("tool", "1"), ("tool", "2"), ("assistant", "x")), HERMES),
        ((("user", "Add."), ("assistant", CALL)), "No tools are described."),
        ((("user", "Add."), ("assistant", CALL)), f"Mine: <tool_call>.\n<tools>[{json.dumps(TOOL)}]</tools>"),
    ],
)  # fmt: skip
def test_what_does_not_fit_stays_text(qwen: ChatEncoder, turns: tuple[tuple[str, str], ...], system: str) -> None:
    example = hermes(*turns, system=system)
    conversation = qwen.conversation(example)
    assert conversation.messages == example.messages()
    assert conversation.tools == ()


def test_a_template_without_tools_has_the_text(tmp_path: Path) -> None:
    encoder = chat_encoder(chat_base(tmp_path / "base", "qwen", (FOLDER / "chatml.jinja").read_text()))
    assert not encoder.form.knows_tools
    (row,) = encoder.rows([hermes(("user", "Add."), ("assistant", CALL))])
    assert not row.problem
    text = encoder.tokenizer.decode(row.ids, keep_special=True)
    assert CALL in text
    assert HERMES in text
