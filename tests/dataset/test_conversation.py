"""Conversations become one row for each answer, with the earlier turns as input."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.dataset.example import Example
from pipeline.dataset.read import conversation
from pipeline.dataset.read.forms import form_name
from tests.helpers.forms import checked, reason, rows, said, talk

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
