"""Tools in conversations: kept in OpenAI's form, and refused where a call and its result do not belong together."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.dataset.read.tool_calls import text_of
from tests.helpers.forms import kept_whole, said, talk, whole

USER = {"role": "user", "content": "What is 2 + 2?"}
FUNCTION = {"name": "add", "arguments": '{"a": 2, "b": 2}'}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "4"}
ANSWER = {"role": "assistant", "content": "It is 4."}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
KEPT = ["u:What is 2 + 2?", "a+:", "t+:4", "a:It is 4."]


def test_calls_results_and_tools_stay_as_they_were_given() -> None:
    example = whole({"messages": [USER, CALL, RESULT, ANSWER], "tools": [TOOL], "parallel_tool_calls": False})
    assert example.tools == (TOOL,)
    assert [m.get("tool_calls") for m in example.messages()] == [None, CALL["tool_calls"], None, None]
    assert example.messages()[2] == RESULT
    assert (example.instruction, example.output) == (USER["content"], ANSWER["content"])
    assert example.as_dict()["tools"] == [TOOL]


def test_other_spellings_become_the_same_turns() -> None:
    legacy = [
        USER, {"role": "assistant", "content": None, "function_call": FUNCTION},
        {"role": "function", "name": "add", "content": "4"}, ANSWER,
    ]  # fmt: skip
    old = whole({"messages": legacy, "functions": [TOOL["function"]]})
    factory = whole({
        "conversations": [
            {"from": "human", "value": USER["content"]},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'},
            {"from": "observation", "value": "4"}, {"from": "gpt", "value": "It is 4."},
        ],
        "tools": '[{"name": "add", "parameters": {"type": "object", "properties": {}}}]',
    })  # fmt: skip
    for example in (old, factory):
        assert example.tools == (TOOL,)
        assert [turn.role for turn in example.turns] == ["user", "assistant", "tool", "assistant"]
        (call,) = example.turns[1].more["tool_calls"]
        assert call["function"]["name"] == "add"
        assert [turn.content for turn in example.turns] == [USER["content"], "", "4", "It is 4."]
    assert old.turns[2].more == {"name": "add"}
    assert text_of(old.turns[1].more["tool_calls"]) == 'add {"a": 2, "b": 2}'
    assert text_of(factory.turns[1].more["tool_calls"]) == 'add {"a": 2, "b": 2}'


def test_a_call_at_the_end_is_the_answer() -> None:
    assert kept_whole({"messages": [USER, CALL], "tools": [TOOL]}) == [KEPT[:2]]  # OpenAI's guide to fine-tuning


ODD: dict[str, tuple[list[Any], list[Any]]] = {
    "a question instead of the result": ([USER, ANSWER, USER, CALL, USER, ANSWER], ["call-without-result"]),
    "an answer instead of the result": ([USER, ANSWER, USER, CALL, ANSWER], ["call-without-result"]),
    "the result of another call": (
        [USER, ANSWER, USER, CALL, {**RESULT, "tool_call_id": "c9"}, ANSWER], ["result-without-call"],
    ),
    "one of two results": (
        [USER, ANSWER, USER, {**CALL, "tool_calls": [*CALL["tool_calls"], {"id": "c2", "function": FUNCTION}]}, RESULT],
        ["call-without-result"],
    ),
    "two results": ([USER, ANSWER, USER, CALL, RESULT, RESULT, ANSWER], ["result-without-call"]),
    "a result at the end": ([USER, ANSWER, USER, CALL, RESULT], ["no-answer"]),
    "a result at the beginning": ([USER, ANSWER, {"role": "user", "content": "x"}, RESULT], ["result-without-call"]),
    "a call without a name": (
        [USER, ANSWER, USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}, RESULT, ANSWER], ["tool-call"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_calls_and_results_that_do_not_belong_together(case: str) -> None:
    messages, rules = ODD[case]
    assert kept_whole({"messages": messages, "tools": [TOOL]}) == [["u:What is 2 + 2?", "a:It is 4."], *rules]
    assert kept_whole({"messages": messages[2:], "tools": [TOOL]}) == rules


def test_parallel_calls_and_results_without_ids() -> None:
    both = {**CALL, "tool_calls": [*CALL["tool_calls"], {"id": "c2", "function": FUNCTION}]}
    second = {**RESULT, "tool_call_id": "c2"}
    for results in ([RESULT, second], [second, RESULT], [{"role": "tool", "content": "4"}] * 2):
        (words,) = kept_whole({"messages": [USER, both, *results, ANSWER]})
        assert [word[0] for word in words] == ["u", "a", "t", "t", "a"]
    no_ids = {**CALL, "tool_calls": [{"function": FUNCTION}] * 2}
    (words,) = kept_whole({"messages": [USER, no_ids, {"role": "tool", "content": "[4, 4]"}, ANSWER]})
    assert [word[0] for word in words] == ["u", "a", "t", "a"]
    assert kept_whole({"messages": [USER, CALL, {**RESULT, "content": ""}, ANSWER]}) == [[*KEPT[:2], "t+:", KEPT[3]]]


def test_tools_that_are_no_list_of_functions_are_refused() -> None:
    for tools in ("not JSON", [{"type": "function"}], [5], {"function": {}}):
        assert kept_whole({**talk("u:q", "a:a"), "tools": tools}) == ["tools"]
    for tools in (None, [], ""):
        assert kept_whole({**talk("u:q", "a:a"), "tools": tools}) == [["u:q", "a:a"]]
    assert kept_whole({"instruction": "q", "output": "a", "tools": [TOOL]}) == ["field-not-used"]


def test_alpaca_forms_refuse_tools_as_before() -> None:
    assert said({"messages": [USER, CALL, RESULT, ANSWER]}) == [("tool-call",)]
    assert said({**talk("u:q", "a:a"), "tools": [TOOL]}) == [("field-not-used",)]
