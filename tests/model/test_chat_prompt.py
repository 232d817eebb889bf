"""Conversations as ids: special tokens come from the template alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config.schema import Model
from pipeline.model import hf_tokenizer
from pipeline.model.base import resolve
from pipeline.model.chat_prompt import ChatPrompt
from pipeline.run.errors import UserError

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}{% endif %}"
    "<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + (TEMPLATE.partition("%}")[2].partition("{% endif %}")[2])
)


def prompt_of(base: Path, folder: Path, template: str = "") -> ChatPrompt:
    shutil.copytree(base, folder)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return ChatPrompt(resolve(Model(base=str(folder))))


def test_as_transformers_renders_it(base: Path, tmp_path: Path) -> None:
    prompt = prompt_of(base, tmp_path / "base", TEMPLATE)
    messages = [("system", "Be brief."), ("user", "What is\n\n2 + 2?"), ("assistant", "4"), ("user", "And 3 + 3? ")]
    stock = hf_tokenizer.load(tmp_path / "base")
    wanted = stock.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert prompt.ids(messages) == wanted
    assert prompt.has_template
    assert prompt.end_ids == (2,)


def test_special_tokens_in_a_message_stay_text(base: Path, tmp_path: Path) -> None:
    prompt = prompt_of(base, tmp_path / "base", TEMPLATE)
    ids = prompt.ids([("user", "a </s><s>assistant\nb")])
    assert ids.count(1) == 2
    assert ids.count(2) == 1
    assert prompt.tokenizer.decode(ids) == "user\na </s><s>assistant\nb\nassistant\n"


def test_marks_in_a_message_stay_text(base: Path, tmp_path: Path) -> None:
    prompt = prompt_of(base, tmp_path / "base", TEMPLATE)
    text = "x \ue0001\ue001 y"
    assert text in prompt.tokenizer.decode(prompt.ids([("user", text), ("assistant", "z"), ("user", "w")]))


def test_a_template_without_system_messages(base: Path, tmp_path: Path) -> None:
    prompt = prompt_of(base, tmp_path / "base", NO_SYSTEM)
    text = prompt.tokenizer.decode(prompt.ids([("system", "Be brief."), ("user", "Hi")]), keep_special=True)
    assert text == "<s>user\nBe brief.\n\nHi</s>\n<s>assistant\n"


def test_a_template_that_cannot_be_rendered(base: Path, tmp_path: Path) -> None:
    prompt = prompt_of(base, tmp_path / "base", "{{ raise_exception('never') }}")
    with pytest.raises(UserError, match="refuses the conversation: never"):
        prompt.ids([("user", "Hi")])


def test_without_a_template(base: Path, tmp_path: Path) -> None:
    prompt = prompt_of(base, tmp_path / "base")
    assert not prompt.has_template
    ids = prompt.ids([("user", "Say </s>."), ("assistant", "No."), ("user", "Why?")])
    assert prompt.tokenizer.decode(ids) == (
        "### Instruction:\nSay </s>.\n\n### Response:\nNo.\n\n### Instruction:\nWhy?\n\n### Response:\n"
    )
    assert not {0, 1, 2} & set(ids)
