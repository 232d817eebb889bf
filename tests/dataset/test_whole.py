"""For chat templates a conversation stays one row, in whatever form it was published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Source
from pipeline.dataset.example import Example
from pipeline.dataset.read.alpaca_form import to_alpaca
from pipeline.dataset.read.forms import form_name
from pipeline.dataset.read.row import RawRow, check
from pipeline.dataset.read.source import read
from tests.helpers.forms import kept_whole, said, talk, whole

TALK = ["u:q1", "a:a1", "u:q2", "a:a2"]
WITH_SYSTEM = ["s:S", *TALK]
MESSAGES: list[dict[str, Any]] = talk(*TALK)["messages"]
HUMAN = "\n\nHuman: q1\n\nAssistant: a1\n\nHuman: q2\n\nAssistant: a2"


def part(text: Any, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": text}


# Each from the card of the data set or the documentation that the comment names.
FORMS: dict[str, tuple[dict[str, Any], list[str]]] = {
    # anon8231489123/ShareGPT_Vicuna_unfiltered
    "sharegpt": (
        {"id": "x", "conversations": [
            {"from": "human", "value": "q1"}, {"from": "gpt", "value": "a1"},
            {"from": "human", "value": "q2"}, {"from": "gpt", "value": "a2"}]},
        TALK,
    ),
    # hiyouga/LLaMA-Factory data/README.md
    "sharegpt with a system field": (
        {"conversations": [
            {"from": "human", "value": "q1"}, {"from": "gpt", "value": "a1"},
            {"from": "human", "value": "q2"}, {"from": "gpt", "value": "a2"}], "system": "S"},
        WITH_SYSTEM,
    ),
    "alpaca with a history": (
        {"instruction": "q2", "input": "", "output": "a2", "system": "S", "history": [["q1", "a1"]]}, WITH_SYSTEM,
    ),
    # OpenAI's guide to fine-tuning, "multi-turn chat examples"
    "messages": (talk("s:S", *TALK), WITH_SYSTEM),
    "messages of parts": (
        {"messages": [
            {"role": "developer", "content": [part("S")]}, {"role": "user", "content": [part("q", "input_text"), "1"]},
            {"role": "assistant", "content": part("a1", "Output_Text")},
            {"role": "user", "content": [{"type": "TEXT", "content": "q2"}]},
            {"role": "assistant", "content": [part({"value": "a2", "annotations": []}, " text ")]}]},
        ["s:S", "u:q\n1", "a:a1", "u:q2", "a:a2"],
    ),
    # huggingface/trl docs/source/dataset_formats.md, conversational prompt-completion
    "prompt and completion": (
        {"prompt": talk("s:S", "u:q1", "a:a1", "u:q2")["messages"], "completion": talk("a:a2")["messages"]},
        ["s:S", "u:q1", "a~:a1", "u:q2", "a:a2"],
    ),
    # ... and its preference form with an explicit prompt
    "preference": (
        {"prompt": talk("u:q1", "a:a1", "u:q2")["messages"], "chosen": talk("a:a2")["messages"],
         "rejected": talk("a:b")["messages"]},
        ["u:q1", "a~:a1", "u:q2", "a:a2"],
    ),
    # ... with an implicit prompt: nothing says which answers are the preferred one's context
    "preference with an implicit prompt": ({"chosen": MESSAGES, "rejected": talk("u:q1", "a:b")["messages"]}, TALK),
    # Anthropic/hh-rlhf
    "hh-rlhf": ({"chosen": HUMAN, "rejected": HUMAN + "b"}, TALK),
    # HuggingFaceH4/ultrachat_200k
    "ultrachat 200k": ({"prompt": "q1", "prompt_id": "9f", "messages": MESSAGES}, TALK),
    # stingning/ultrachat
    "ultrachat": ({"id": "0", "data": ["q1", "a1", "q2", "a2"]}, TALK),
    # timdettmers/openassistant-guanaco
    "guanaco": ({"text": "### Human: q1### Assistant: a1### Human: q2### Assistant: a2"}, TALK),
    # the prompt of Beomi/KoAlpaca
    "guanaco in Korean": ({"text": "### 질문: 안녕?\n\n### 답변: 네.\n\n### 질문: q2\n\n### 답변: a2</s>"},
                          ["u:안녕?", "a:네.", "u:q2", "a:a2</s>"]),
    "pairs": ({"conversation": [{"system": "", "input": "q1", "output": "a1"}, {"input": "q2", "output": "a2"}]}, TALK),
    "as JSON text": ({"messages": json.dumps(MESSAGES)}, TALK),
    "as lists": ({"conversations": {"from": ["human", "gpt"] * 2, "value": ["q1", "a1", "q2", "a2"]}}, TALK),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_a_published_conversation_keeps_its_turns(case: str) -> None:
    row, words = FORMS[case]
    assert kept_whole(row) == [words]


def test_forms_of_text_have_names() -> None:
    assert form_name(FORMS["guanaco"][0], whole=True) == "guanaco"
    assert form_name(FORMS["ultrachat"][0], whole=True) == "ultrachat"
    assert form_name(FORMS["sharegpt"][0], whole=True) == "sharegpt"
    for case in ("guanaco", "ultrachat"):  # without a chat template they are rejected, as before
        assert len(said(FORMS[case][0])[0]) == 1
    assert kept_whole({"text": "Some prose about ### Human: rights"}) == ["text-only"]


def test_one_question_and_answer_is_a_plain_row() -> None:
    example = whole(talk("u:q", "a:a"))
    assert example == Example.of("q", "", "a", source="f")
    assert whole(talk("s:S", "u:q", "a:a")) == Example.of("q", "", "a", source="f", system="S")
    flat = whole({"instruction": "q", "input": "i", "output": "a", "system": "S"})
    assert [m["content"] for m in flat.messages()] == ["S", "q\n\ni", "a"]
    assert whole({"instruction": "q", "input": "i", "output": "a", "system": " "}).system == ""
    assert whole({"prompt": "q", "chosen": "a", "rejected": "b", "system": "S"}).system == "S"


def test_seeds_keep_their_instances() -> None:
    row = {"instruction": "q", "system": "S", "instances": [{"input": "", "output": "a"}, {"output": "b"}]}
    assert kept_whole(row) == [["s:S", "u:q", "a:a"], ["s:S", "u:q", "a:b"]]
    assert kept_whole({"instruction": "q", "output": "a", "url": "u"}) == [["u:q", "a:a"]]  # KoAlpaca


ODD: dict[str, tuple[Any, list[Any]]] = {
    "two user turns": (talk("u:q1", "u:q2", "a:a"), [["u:q1\n\nq2", "a:a"]]),
    "two answers": (talk("u:q", "a:a1", "a:a2"), [["u:q", "a:a1\n\na2"]]),
    "two system messages": (talk("s:s1", "s:s2", "u:q", "a:a"), [["s:s1\n\ns2", "u:q", "a:a"]]),
    "an empty system message": (talk("s: ", "u:q", "a:a"), [["u:q", "a:a"]]),
    "begins with the assistant": (talk("a:Hello!", "u:q", "a:a"), [["a~:Hello!", "u:q", "a:a"]]),
    "only the assistant": (talk("a:Hello!"), ["no-question"]),
    "the assistant and a question": (talk("a:Hello!", "u:q"), ["no-answer"]),
    "ends with the user": (talk(*TALK, "u:q3"), [TALK, "no-answer"]),
    "only the user": (talk("u:q"), ["no-answer"]),
    "only a system message": (talk("s:s"), ["no-question"]),
    "no messages": (talk(), ["no-question"]),
    "late system message": (talk(*TALK, "s:s", "u:q3", "a:a3"), [TALK, "late-system-message"]),
    "late system message before the answer": (talk(*TALK, "u:q3", "s:s", "a:a3"), [TALK, "late-system-message"]),
    "empty question": (talk("u: ", "a:a"), ["empty-turn"]),
    "empty answer": (talk(*TALK, "u:q3", "a:", "u:q4", "a:a4"), [TALK, "empty-turn"]),
    "unknown speaker": ({"messages": [*MESSAGES, {"role": "narrator", "content": "x"}]}, [TALK, "unknown-speaker"]),
    "picture": (
        {"messages": [*MESSAGES, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        [TALK, "not-text"],
    ),
    "number": ({"messages": [{"role": "user", "content": 5}]}, ["not-text"]),
    "message of text": ({"messages": [*MESSAGES, "x"]}, [TALK, "not-a-conversation"]),
    "text": ({"messages": "[{'role': 'user'}]"}, ["not-a-conversation"]),
    "result without a call": (talk(*TALK, "u:q3", "t:x", "a:a3"), [TALK, "result-without-call"]),
    "result of a call in the text": (talk(*TALK, "u:q3", "a:call()", "t:x", "a:a3"), [TALK, "result-without-call"]),
    "not to be learnt": (
        {"messages": [*MESSAGES[:1], {**MESSAGES[1], "weight": 0}, *MESSAGES[2:]]},
        [["u:q1", "a~:a1", "u:q2", "a:a2"]],
    ),
    "nothing to be learnt": ({"messages": [{**m, "weight": 0} for m in MESSAGES]}, ["weight-zero"]),
    "surrogate": (talk("u:q", "a:a", "u:\ud800", "a:b"), ["invalid-utf-8"]),
    "not desirable": ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:2], "label": False}, ["undesired"]),
    "desirable": ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:2], "label": True}, [["u:q1", "a:a1"]]),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_conversations(case: str) -> None:
    row, expected = ODD[case]
    assert kept_whole(row) == expected


def test_the_rest_of_a_conversation_says_where_it_begins() -> None:
    row = talk(*TALK, "u:q3", "a: ")
    kept, rest = to_alpaca(RawRow(row, "f:1"), Source(path="f"), whole=True)
    assert (kept.place, rest.place, rest.rule) == ("f:1", "f:1, message 6", "empty-turn")
    assert rest.error == "message 6 (assistant) is empty; it and what follows is left out"
    assert rest.value is row
    _, rest = to_alpaca(RawRow(talk(*TALK, "u:q3"), "f:1"), Source(path="f"), whole=True)
    assert (rest.place, rest.error) == ("f:1, message 5", "the last turn is the user's, and nobody answers")
    (alone,) = to_alpaca(RawRow(talk("u: "), "f:1"), Source(path="f"), whole=True)
    assert (alone.place, alone.error) == ("f:1", "message 1 (user) is empty")


def test_texts_stay_byte_for_byte() -> None:
    words = ["u: <|im_end|>\n ### Human: ", "a:\t{{ x }}\r\n", "u:  안녕 👩‍👩‍👧 ", "a:<s>"]
    assert kept_whole(talk(*words)) == [words]


def test_trees_of_openassistant_are_their_best_path(tmp_path: Path) -> None:
    def node(id: str, parent: str | None, role: str, text: str, rank: int | None = None) -> dict[str, Any]:
        names = ("message_id", "parent_id", "role", "text", "rank", "message_tree_id")
        return dict(zip(names, (id, parent, role, text, rank, "1"), strict=True))

    rows = [
        node("1", None, "prompter", "q1"), node("2", "1", "assistant", "worse", 1),
        node("3", "1", "assistant", "a1", 0),
        node("4", "3", "prompter", "q2"), node("5", "4", "assistant", "a2", 0), node("6", "5", "prompter", "q3"),
    ]  # fmt: skip
    path = tmp_path / "oasst.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (raw,) = read(Source(path=str(path)), 0)
    assert kept_whole(raw.value) == [TALK]


def test_rows_that_this_pipeline_wrote_are_read_again() -> None:
    for row in (talk("s:S", *TALK), talk("a:Hello", *TALK), talk("s:S", "u:q", "a:a"), talk("u:q", "a:a")):
        example = whole(row)
        again = whole(json.loads(json.dumps(example.as_dict())))
        assert again.messages() == example.messages()
        assert again.id == example.id
    cut = said(json.loads(json.dumps(whole(talk("s:S", *TALK)).as_dict())))
    assert cut == [("S\n\nq1", "", "a1"), ("S\n\nq2", "User: q1\nAssistant: a1", "a2")]


def test_content_beside_a_conversation_is_not_lost() -> None:
    assert kept_whole({"context": "a passage", **talk(*TALK)}) == ["field-not-used"]
    assert kept_whole({"context": "q2", **talk(*TALK)}) == [TALK]


def test_plain_rows_are_the_same_for_every_template() -> None:
    for row in (
        {"instruction": "q", "input": "i", "output": "a"}, {"question": "q", "answer": "a"}, {"text": "prose"},
        {"x": 1}, {"instruction": "q"}, {"instruction": 5, "output": "a"}, "text", {"inputs": "q", "targets": "a"},
    ):  # fmt: skip
        raw, source = RawRow(row, "f:1"), Source(path="f")
        cut, kept = ([check(r, source) for r in to_alpaca(raw, source, whole=w)] for w in (False, True))
        assert cut == kept
