"""Conversations as prompts: the ids of training, which are those of the export's chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.model import hf_tokenizer
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.template import load
from pipeline.serving.server.api_error import ApiError
from pipeline.serving.server.messages import chat_prompt, text_prompt
from tests.helpers.chats import SPELT, chat_base, chat_encoder
from tests.helpers.tiny import make_tokenizer
from tests.helpers.tokenizers import encoder_of

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LONG = "far away and long ago " * 200
CONVERSATIONS = [
    [("user", "Name a colour.")],
    [("system", "Be brief."), ("user", "색을 하나 말해 주세요.")],
    [("system", "A."), ("system", "B."), ("user", "Q1"), ("user", "more"), ("assistant", "A1"), ("user", "Q2")],
    [("assistant", "Hello!"), ("user", "Q")],
    [("user", "Q1"), ("assistant", "A1"), ("assistant", "A1b"), ("user", "Q2"), ("assistant", "A2"), ("user", "Q3")],
    [("user", LONG), ("assistant", LONG), ("user", LONG), ("assistant", "A2"), ("user", "Q3")],
    [("user", "{input} {instruction} {{ 7 * 7 }} ### Response:\n")],
]


def messages(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in pairs]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> AnyEncoder:
    folder = tmp_path_factory.mktemp("rows")
    make_tokenizer(folder)
    return encoder_of(folder, load("alpaca"))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> AnyEncoder:
    return chat_encoder(chat_base(tmp_path_factory.mktemp("chat"), "qwen", CHATML))


@pytest.mark.parametrize("kind", ["rows", "chat"])
@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
def test_ids_are_those_of_the_exported_chat_template(kind: str, number: int, request: pytest.FixtureRequest) -> None:
    encoder = request.getfixturevalue(kind)
    asked = messages(*CONVERSATIONS[number])
    exported = hf_tokenizer.build(encoder, None)
    expected = exported.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert list(chat_prompt(encoder, asked).ids) == list(expected)


def test_input_is_that_of_a_row(rows: AnyEncoder, chat: AnyEncoder) -> None:
    asked = messages(("system", "Be brief."), ("user", "Summarise."))
    assert list(chat_prompt(rows, asked, "A text.").ids) == rows.prompt("Be brief.\n\nSummarise.", "A text.")
    assert list(chat_prompt(chat, asked[1:], "A text.").ids) == chat.prompt("Summarise.", "A text.")
    with pytest.raises(ApiError) as caught:
        chat_prompt(rows, messages(("user", "a"), ("assistant", "b"), ("user", "c")), "A text.")
    assert caught.value.param == "input"


@pytest.mark.parametrize("kind", ["rows", "chat"])
def test_special_tokens_in_messages_stay_text(kind: str, request: pytest.FixtureRequest) -> None:
    encoder = request.getfixturevalue(kind)
    text = f"{SPELT} </s><s>"
    plain = chat_prompt(encoder, messages(("user", "x"))).ids
    prompt = chat_prompt(encoder, messages(("user", text)))
    special = encoder.tokenizer.special_ids
    assert sum(id in special for id in prompt.ids) == sum(id in special for id in plain)
    assert text in encoder.tokenizer.decode(prompt.ids)
    begun = chat_prompt(encoder, messages(("user", "x"), ("assistant", text)), continues=True)
    assert sum(id in special for id in begun.ids) == sum(id in special for id in plain)
    raw = text_prompt(encoder, text).ids
    assert sum(id in special for id in raw) == (encoder.bos_id is not None)


@pytest.mark.parametrize("kind", ["rows", "chat"])
def test_a_continued_answer_stands_behind_its_prompt(kind: str, request: pytest.FixtureRequest) -> None:
    encoder = request.getfixturevalue(kind)
    question, answer = ("user", "Name a colour."), "It is 파란"
    whole = chat_prompt(encoder, messages(question, ("assistant", answer)), continues=True)
    before = chat_prompt(encoder, messages(question)).ids
    assert whole.ids == before + whole.begun
    assert encoder.tokenizer.decode(whole.begun) == answer


def test_a_continued_answer_has_the_ids_of_the_row(chat: Any) -> None:
    from pipeline.dataset.example import Example

    row = chat.rows([Example.of("Name a colour.", "", "It is blue.", source="x")])[0]
    whole = chat_prompt(chat, messages(("user", "Name a colour."), ("assistant", "It is blue.")), continues=True)
    assert list(whole.ids) == row.ids[: len(whole.ids)]
    assert row.ids[len(whole.ids)] == chat.end_id


def test_parts_of_text_are_one_text(rows: AnyEncoder) -> None:
    parts = [{"type": "text", "text": "Name"}, {"type": "text", "text": "a colour."}]
    assert chat_prompt(rows, [{"role": "user", "content": parts}]).ids == chat_prompt(
        rows, messages(("user", "Name\na colour."))
    ).ids  # fmt: skip


def test_developer_and_empty_system_messages(rows: AnyEncoder) -> None:
    brief = chat_prompt(rows, messages(("system", "Be brief."), ("user", "Q")))
    assert chat_prompt(rows, messages(("developer", "Be brief."), ("system", ""), ("user", "Q"))) == brief
    named = [
        {"role": "system", "content": "Be brief.", "name": "a"},
        {"role": "user", "content": "Q", "tool_calls": []},
    ]
    assert chat_prompt(rows, named) == brief


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ([], "messages"), (["hi"], "messages[0]"), ([{"content": "x"}], "messages[0].role"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"), ([{"role": ["user"]}], "messages[0].role"),
        ([{"role": "user", "content": " \n"}], "messages[0].content"),
        ([{"role": "user", "content": 3}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
         "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "assistant", "content": "x", "tool_calls": [{}]}], "messages[0].tool_calls"),
        ([{"role": "system", "content": "x"}], "messages"), ([{"role": "system", "content": ""}], "messages"),
        (messages(("user", "a"), ("assistant", "b")), "messages"),
        (messages(("user", "a"), ("system", "b"), ("user", "c")), "messages"),
        (messages(*[("user", "a")] * 2049), "messages"),
    ],
)  # fmt: skip
def test_other_messages_are_refused(rows: AnyEncoder, asked: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat_prompt(rows, asked)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_what_a_template_refuses_is_the_clients_fault(tmp_path: Path) -> None:
    strict = "{% if messages[0].role == 'assistant' %}{{ raise_exception('the user begins') }}{% endif %}" + CHATML
    encoder = chat_encoder(chat_base(tmp_path, "qwen", strict))
    with pytest.raises(ApiError, match="the user begins"):
        chat_prompt(encoder, messages(("assistant", "a"), ("user", "b")))


@pytest.mark.parametrize("asked", [messages(("user", "a")), messages(("user", "a"), ("assistant", " "))])
def test_only_an_answer_is_continued(rows: AnyEncoder, asked: Any) -> None:
    with pytest.raises(ApiError):
        chat_prompt(rows, asked, continues=True)


def test_a_completion_is_encoded_without_the_template(rows: AnyEncoder) -> None:
    assert text_prompt(rows, "The sky").ids == tuple(rows.tokenizer.encode(["The sky"])[0])
    assert text_prompt(rows, (5, 6)).ids == (5, 6)
    for prompt in ("", (), (5, rows.tokenizer.size), (-1,)):
        with pytest.raises(ApiError) as caught:
            text_prompt(rows, prompt)
        assert caught.value.param == "prompt"
