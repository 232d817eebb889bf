"""The record of the pipeline: a row or a whole conversation, and its JSON."""

from __future__ import annotations

import json

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.dataset.turn import Turn

TURNS = (
    Turn("user", "안녕?"), Turn("assistant", "네, 안녕하세요.", learn=False), Turn("user", "What is 2 + 2?"),
    Turn("assistant", "", more={"tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{}"}}]}),
    Turn("tool", "4", more={"tool_call_id": "1"}), Turn("assistant", "4"),
)  # fmt: skip
TOOLS = ({"type": "function", "function": {"name": "add"}},)


def test_a_plain_row_is_written_as_before() -> None:
    example = Example.of("q", "i", "a", source="s")
    assert json.dumps(example.as_dict()) == (
        '{"instruction": "q", "input": "i", "output": "a", "id": "29f2dc1038fd926e", "source": "s", "language": "en", '
        '"task": "", "exact": false, "thread": ""}'
    )
    assert Example.from_dict(example.as_dict()) == example
    assert example.messages() == [{"role": "user", "content": "q\n\ni"}, {"role": "assistant", "content": "a"}]


def test_a_system_message_is_part_of_the_row_and_of_its_id() -> None:
    example = Example.of("q", "", "a", source="s", system="Be kind.")
    assert example.as_dict()["system"] == "Be kind."
    assert example.id != Example.of("q", "", "a", source="s").id
    assert Example.from_dict(example.as_dict()) == example
    assert [m["content"] for m in example.messages()] == ["Be kind.", "q", "a"]


def test_a_conversation_keeps_every_turn() -> None:
    example = Example.whole(TURNS, source="s", system="S", tools=TOOLS)
    assert (example.instruction, example.input, example.output) == ("안녕?", "", "4")
    row = json.loads(json.dumps(example.as_dict()))
    assert row["turns"][1] == {"role": "assistant", "content": "네, 안녕하세요.", "weight": 0}
    assert Example.from_dict(row) == example
    assert example.messages()[0] == {"role": "system", "content": "S"}
    assert [m["role"] for m in example.messages()[1:]] == [turn.role for turn in TURNS]
    assert example.messages()[4]["tool_calls"] == TURNS[3].more["tool_calls"]
    assert "weight" not in example.messages()[2]
    hash(example)


def test_the_id_is_a_hash_of_all_turns() -> None:
    ids = {
        Example.whole(turns, source="s", system=system, tools=tools).id
        for turns, system, tools in (
            (TURNS, "", ()), (TURNS[:2], "", ()), (TURNS, "S", ()), (TURNS, "", TOOLS),
            ((TURNS[0], Turn("assistant", TURNS[1].content)), "", ()),
        )
    }  # fmt: skip
    assert len(ids) == 5


def test_chat_templates_are_known_by_their_names() -> None:
    assert not Prompt().is_chat
    assert not Prompt(template="my.yaml").is_chat
    assert all(Prompt(template=name).is_chat for name in ("base", "chatml", "llama-3", "own/form.jinja"))
