"""Tool calls that are written as text."""

from __future__ import annotations

import json

import pytest

from pipeline.dataset.read.hermes import calls_in, responses_in, tools_in
from tests.helpers.forms import kept_whole, said

CALL = {"name": "add", "arguments": {"a": 1, "b": [2, None]}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def test_calls() -> None:
    one = f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
    assert calls_in(one) == ("", [CALL])
    assert calls_in(f"Let me see.\n{one}\n{one}\n") == ("Let me see.", [CALL, CALL])
    assert calls_in(f"<tool_call>{CALL}</tool_call>") == ("", [CALL])  # as Python writes it


@pytest.mark.parametrize(
    "text",
    [
        "no call", "<tool_call>", "</tool_call>", "<tool_call>{}</tool_call>", "<tool_call>not JSON</tool_call>",
        f"<tool_call>{json.dumps(CALL)}", f"{json.dumps(CALL)}</tool_call>",
        f"<tool_call><tool_call>{json.dumps(CALL)}</tool_call></tool_call>",
        f"<tool_call>{json.dumps(CALL)}</tool_call> and more text",
        f"<tool_call>{json.dumps(CALL)}</tool_call> text <tool_call>{json.dumps(CALL)}</tool_call>",
        '<tool_call>{"name": "add"}</tool_call>', '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": "{}"}</tool_call>', "<tool_call>" + "[" * 50_000 + "</tool_call>",
        "<tool_call>{'name': 'add', 'arguments': {'a': {1, 2}}}</tool_call>",
        "<tool_call>{'name': 'add', 'arguments': __import__('os').environ}</tool_call>",
    ],
)  # fmt: skip
def test_text_that_is_no_call(text: str) -> None:
    assert calls_in(text) is None


def test_responses() -> None:
    assert responses_in("<tool_response>\n4\n</tool_response>") == ["4"]
    assert responses_in("<tool_response>1</tool_response>\n<tool_response>2</tool_response>") == ["1", "2"]
    for text in ("4", "<tool_response>4", "x <tool_response>4</tool_response>", ""):
        assert responses_in(text) == [text]


def test_tools_in_a_system_message() -> None:
    text = f"Signatures are within <tools> </tools> tags.\n<tools>\n{json.dumps([TOOL])}\n</tools>\nBe kind."
    assert tools_in(text) == ([TOOL], "Signatures are within <tools> </tools> tags.\n\nBe kind.")
    lines = f"<tools>{json.dumps(TOOL)}\n{json.dumps(TOOL)}</tools>"
    assert tools_in(lines) == ([TOOL, TOOL], "")
    for other in ("no tools", "<tools>[not JSON]</tools>", f"<tools>[{TOOL}]</tools>" * 2, "<tools>[]</tools>"):
        assert tools_in(other) == ([], other)


def test_a_result_may_follow_a_call_in_text() -> None:
    call = {"from": "gpt", "value": f"<tool_call>{json.dumps(CALL)}</tool_call>"}
    talk = [
        {"from": "human", "value": "q"}, call, {"from": "tool", "value": "<tool_response>3</tool_response>"},
        {"from": "gpt", "value": "It is 3."},
    ]  # fmt: skip
    assert kept_whole({"conversations": talk}) == [
        ["u:q", f"a:{call['value']}", "t:<tool_response>3</tool_response>", "a:It is 3."]
    ]
    broken = [talk[0], {"from": "gpt", "value": "<tool_call>add 1 2</tool_call>"}, *talk[2:]]
    assert kept_whole({"conversations": broken}) == ["result-without-call"]
    assert said({"conversations": talk}) == [("tool-call",)]  # single rows refuse tools, as before
