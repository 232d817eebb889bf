"""Templates byte for byte, in this project's own code and as the chat template that travels with an export."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.dataset.read.conversation import conversation_rows
from pipeline.dataset.read.row import RawRow
from pipeline.prompt import template as templates
from pipeline.prompt.template import Template
from pipeline.run.errors import UserError

# sha256 of prompt_input and prompt_no_input, as published (shared/data/reference_templates.json).
PUBLISHED = {
    "alpaca": (
        "28811e9850d9511bab334d167a03a8a37614535fdb28d645492efac8e9951c0f",
        "35101bc36d10997c7d926d8f21f7d173aec6523f3a57d78821b944a89925cdca",
    ),
    "alpaca-lora": (
        "f1b8970aa9b05de470dbd1413609a155a16c9e9cfe4efbf01cf38dc2049fde66",
        "7768da83ee0feb389c3bbcac0841599b1f953ff9ee5c448ec02fc560d762893f",
    ),
    "alpaca-short": (
        "e213cba2d1089f7973c8d3c0acde04d1dfb386e4e8bf5dee7c02239708bab6e6",
        "c42ad62d113edc9aac78c6bd1807d8c39bf2e5793500211f3590e5b40615318e",
    ),
    "koalpaca-v1.0": (
        "a88ce1419d0ed7c2f3eef0ffc818ddd7c655edb44ea10bd8fa32a8d4f19080f9",
        "9d97c700663db0015a77887a4f82504ccbea110751c19a571fa5da4eef1a5e89",
    ),
    "koalpaca-v1.1": (
        "7e250eeee0a5428c871833624146b3ddba67bd010b48bc941f56ae507e284810",
        "54e074f36350623e236177d2e90c73ecc43efeda6fb31583553a20d7c261e9ec",
    ),
    "qlora-alpaca": (
        "8b24c1d0c55d40f1f5af377ddeaa952d9bf2edd062db97f4c0f69caa1df8e992",
        "a1b69f862f7831a2ab09cf66284726dafd2a67985c514b4e88e8a9a5766bc901",
    ),
}
NASTY = [
    "Add the numbers.",
    "{{ 7*7 }} {% for x in y %} {# c #} {%- raw -%}",
    "{instruction} {input} {output} {0.__class__} %s $x",
    "quotes ' \" ''' \"\"\" and \\ backslashes \\n \\u0041 \\",
    "  lines\n\n\r\n\tand spaces \n",
    "이모지 😀👩‍👩‍👧 와 한국어 \u2028 \u0085 \x00 \ufeff",
    "<s> </s> <|endoftext|> ### Response:\n",
]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_built_in_templates_are_the_published_bytes() -> None:
    assert templates.names() == sorted(PUBLISHED)
    for name, (with_input, without) in PUBLISHED.items():
        found = templates.load(name)
        assert found.id == name
        assert sha256(found.prompt_input) == with_input
        assert sha256(found.prompt_no_input) == without
        korean = name == "koalpaca-v1.1"
        assert found.answer_prefix == (" " if korean else "")
        assert found.end == ("<|endoftext|>" if korean else "eos")


def test_the_built_in_templates_equal_the_reference_file(shared_data: Path) -> None:
    reference = json.loads((shared_data / "reference_templates.json").read_text(encoding="utf-8"))
    assert sorted(reference) == templates.names()
    for name, form in reference.items():
        found = templates.load(name)
        assert found.prompt_input == form["prompt_input"]
        assert found.prompt_no_input == form["prompt_no_input"]
        assert found.answer_prefix == form.get("answer_prefix", "")
        assert found.end == form.get("eos_text", "eos")


def test_substitution_is_literal_and_in_one_pass() -> None:
    form = Template("t", "A {instruction} B {input} C", "A {instruction} C")
    assert form.prompt("{input} {instruction}", "{instruction} x") == "A {input} {instruction} B {instruction} x C"
    assert form.prompt("{0} {x.__class__} %s {{}} $a \\1") == "A {0} {x.__class__} %s {{}} $a \\1 C"
    assert form.prompt("a", "") == "A a C"
    assert form.prompt("a", " ") == "A a B   C"  # white space is an input, as in the reference recipes
    assert form.answer("{instruction}") == "{instruction}"
    assert replace(form, answer_prefix=" ").answer("x") == " x"


def test_the_hash_is_of_the_form_and_not_of_its_name() -> None:
    form = Template("t", "A {instruction} {input}", "A {instruction}")
    others = [
        replace(form, prompt_input="B {instruction} {input}"),
        replace(form, prompt_no_input="B {instruction}"),
        replace(form, answer_prefix=" "),
        replace(form, end="</s>"),
    ]
    assert len({form.hash, *(other.hash for other in others)}) == 5
    assert replace(form, id="u").hash == form.hash
    assert len({templates.load(name).hash for name in templates.names()}) == 6


# --- a template of one's own

OWN = {"prompt_input": "Q {instruction} | {input}\nA", "prompt_no_input": "Q {instruction}\nA"}


def own(folder: Path, values: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    found = templates.load(own(tmp_path, {**OWN, "answer_prefix": " ", "end": "<|end|>"}))
    assert found == Template("mine", OWN["prompt_input"], OWN["prompt_no_input"], " ", "<|end|>")
    assert templates.load(own(tmp_path, {**OWN, "id": "other"})).id == "other"
    assert found.prompt("질문", "x") == "Q 질문 | x\nA"


@pytest.mark.parametrize(
    ("change", "said", "fix"),
    [
        ({"prompt_input": None}, "prompt_input is not text", "put it in quotes"),
        ({"end": 5}, "end is not text", "put it in quotes"),
        ({"end": ""}, "end is empty", "eos"),
        ({"propmt_input": "x"}, "unknown key 'propmt_input'", "did you mean prompt_input?"),
        ({"zzz": "x"}, "unknown key 'zzz'", "keys: id, prompt_input"),
        ({3: "x"}, "unknown key 3", "keys: id, prompt_input"),
        ({"prompt_input": "{input}"}, "prompt_input holds {instruction} 0 times", "put {instruction}"),
        ({"prompt_input": "{instruction}"}, "prompt_input holds {input} 0 times", "put {input}"),
        ({"prompt_no_input": "none"}, "prompt_no_input holds {instruction} 0 times", "put {instruction}"),
        (
            {"prompt_no_input": "{instruction}{instruction}"},
            "{instruction} 2 times, not once",
            "keep one {instruction}",
        ),
        ({"prompt_no_input": "{instruction} {input}"}, "prompt_no_input holds {input}, which is empty", "remove it"),
        (
            {"prompt_no_input": "{instruction} {output}"},
            "holds {output}",
            "remove {output}",
        ),
        ({"prompt_input": "{instruction} {input} {response}"}, "holds {response}", "remove {response}"),
        ({"answer_prefix": "{output}"}, "answer_prefix holds {output}", "remove {output}"),
        ({"answer_prefix": "{input}"}, "answer_prefix holds {input}, which is not filled", "remove {input}"),
    ],
)
def test_templates_that_cannot_be(tmp_path: Path, change: dict[Any, Any], said: str, fix: str) -> None:
    path = own(tmp_path, {**OWN, **change})
    with pytest.raises(UserError) as caught:
        templates.load(path)
    assert said in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.where == path


@pytest.mark.parametrize("key", list(OWN))
def test_a_missing_form(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is missing"):
        templates.load(own(tmp_path, {k: v for k, v in OWN.items() if k != key}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a template is a table of keys"),
        ("- a", "a template is a table of keys"),
        ("a: [", "not a readable template"),
        ("a: " + "[" * 1200, "not a readable template"),
        ("a: !!python/name:os.system x", "not a readable template"),
    ],
)
def test_files_that_are_no_template(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        templates.load(own(tmp_path, text))


def test_a_template_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"prompt_input: \xbe\xc8")
    with pytest.raises(UserError, match="it looks like CP949"):
        templates.load(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("name", ["alpaca_lora", "nothing", "no/file.yaml", "x" * 5000, "a\x00b", "{instruction}\n"])
def test_unknown_templates(name: str) -> None:
    with pytest.raises(UserError, match="unknown template") as caught:
        templates.load(name)
    assert caught.value.where == "prompt.template"
    assert "did you mean alpaca-lora?" in caught.value.fix or "built in: alpaca, alpaca-lora," in caught.value.fix


# --- the chat template of an export


@functools.cache
def compiled(source: str, transformers_like: bool) -> jinja2.Template:
    def stop(message: str) -> None:
        raise jinja2.TemplateError(message)

    # As transformers compiles chat templates, and with Jinja's own defaults.
    environment = ImmutableSandboxedEnvironment(trim_blocks=transformers_like, lstrip_blocks=transformers_like)
    environment.globals["raise_exception"] = stop
    return environment.from_string(source)


def render(source: str, messages: list[dict[str, str]], transformers_like: bool = True) -> str:
    return compiled(source, transformers_like).render(messages=messages, add_generation_prompt=True)


@pytest.mark.parametrize("name", [*PUBLISHED, "nasty"])
@pytest.mark.parametrize("like", [True, False])
def test_the_chat_template_gives_the_same_bytes(name: str, like: bool) -> None:
    nasty = "{{{{ 1 }}}} {{% x %}} {{# c #}} ' \" \\ \\n 😀\n\t\r\n}}}} {0} "
    form = Template("nasty", nasty.format("{instruction}{input}"), nasty.format("{instruction}"), "😀'\"\\{{", "<é😀>")
    form = form if name == "nasty" else templates.load(name)
    for bos, end in (("<s>", "</s>"), ("", "<|im_end|>"), ("<｜begin😀｜>", '"\\')):
        source = form.jinja(bos, end)
        for text in NASTY:
            for input in ("", *NASTY):
                user = {"role": "user", "content": text, **({"input": input} if input else {})}
                expected = bos + form.prompt(text, input)
                assert render(source, [user], like) == expected
        user, answer = {"role": "user", "content": NASTY[1]}, {"role": "assistant", "content": NASTY[3]}
        turn = form.prompt(NASTY[1]) + form.answer(NASTY[3]) + end
        assert render(source, [user, answer], like) == bos + turn


@pytest.mark.parametrize("like", [True, False])
def test_the_chat_template_renders_a_conversation_as_the_row_that_training_made(like: bool) -> None:
    turns = [("user", "Q1"), ("assistant", "A1"), ("user", " Q2\n"), ("user", "and {{ Q3 }}"), ("assistant", "A2")]
    long = [(role, f"{text} " + "word " * 500) for role, text in turns] * 3
    form = templates.load("alpaca")
    source = form.jinja("<s>", "</s>")
    for system in ([], [("system", "S")], [("system", "S"), ("system", "T")]):
        for rest in (turns[:2], turns, turns[1:], long, long[1:]):
            messages = [{"role": role, "content": text} for role, text in [*system, *rest]]
            row = conversation_rows(RawRow({}, "here"), messages)[-1].value
            prompt = "<s>" + form.prompt(row["instruction"], row["input"])
            assert render(source, messages[:-1], like) == prompt
            assert render(source, messages, like) == prompt + row["output"] + "</s>"


def test_the_chat_template_refuses_roles_that_the_model_never_saw() -> None:
    source = templates.load("alpaca").jinja("", "</s>")
    user, system = {"role": "user", "content": "x"}, {"role": "system", "content": "x"}
    with pytest.raises(jinja2.TemplateError, match="system, user and assistant only"):
        render(source, [{"role": "tool", "content": "x"}])
    with pytest.raises(jinja2.TemplateError, match="a system message after the first turn"):
        render(source, [user, system])
