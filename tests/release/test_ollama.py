"""Ollama's Modelfile: parsed by Ollama's grammar, its template renders the training's prompt."""

from __future__ import annotations

from collections.abc import Callable

import jinja2
import pytest

from pipeline.prompt.chat_template import FOLDER
from pipeline.prompt.template import Template, load, names
from pipeline.release.ollama import chat_go_template, go_template, modelfile
from pipeline.run.errors import UserError
from tests.helpers.go_template import parse_modelfile, prompt_of, render, render_chat, render_with_go

HARD = Template(
    "hard",
    '""" {{ .Evil }} }}{{{instruction}}}\u200b\u00a0\x01\t"{input}" """\nA "" {{"x"}} `$x` \\n {{- trim -}} 🙂 ',
    '"{instruction}" {{/* c */}}\r\n한국어: ',
    answer_prefix=' "',
)
TEXTS = ['Say "hello".', "{{ .System }}", '"""', "두 줄\n\n그리고 🙂", " spaces ", "{input}"]


@pytest.mark.parametrize("template", [HARD, *(load(name) for name in names())], ids=lambda template: template.id)
def test_it_renders_the_prompt_of_the_training(template: Template) -> None:
    text = modelfile("mine-f16.gguf", go_template(template, "</s>"), "</s>", "Note.")
    commands = dict(parse_modelfile(text))
    assert commands["model"] == "./mine-f16.gguf"
    assert commands["stop"] == "</s>"
    assert "system" not in commands  # no template of rows has one
    for text in TEXTS:
        for system in ("", "some input", *TEXTS):
            values = {"Prompt": text, "System": system}
            assert prompt_of(commands["template"], values) == template.prompt(text, system)
            turn = render(commands["template"], {**values, "Response": template.answer("Fine.")})  # as generated
            assert turn == template.prompt(text, system) + template.answer("Fine.") + "</s>"


def test_what_a_modelfile_cannot_hold() -> None:
    with pytest.raises(UserError, match="end token"):
        modelfile("a.gguf", "", '"', "")


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ '<s>' }}{% for m in messages %}{{ '<|h|>' + m.role + '<|/h|>\n\n' + m.content|trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|h|>assistant<|/h|>\n\n' }}{% endif %}"
)
QUOTES = (
    '{% for m in messages %}{{ m.role + \' """{{ \' + m.content + " }}\u200b" }}{% endfor %}'
    '{{ "A:" * add_generation_prompt }}'
)
TALKS = [
    [("user", "Hi {{ .Role }}")], [("system", "Be kind."), ("user", 'Say """x"""')],
    [("user", "두 줄\n"), ("assistant", "a"), ("user", "b")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
]  # fmt: skip


def rendered(template: str) -> Callable[[list[dict[str, str]], bool], str]:
    def fail(text: str) -> None:
        raise ValueError(text)

    made = jinja2.Environment(keep_trailing_newline=True).from_string(template, {"raise_exception": fail})
    return lambda messages, answer: made.render(messages=messages, add_generation_prompt=answer, bos_token="<s>")


GEMMA = (FOLDER / "gemma.jinja").read_text()  # the system message stands in the first user message
FOLDS = (
    "<s>{% if messages[0].role == 'system' %}{% set s = '<<{{' + messages[0].content + '}}>>\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}"
    "{{ '[' + m.role + ']' + (s if loop.first else '') + m.content + '[/]' }}{% endfor %}"
    "{{ '[a]' * add_generation_prompt }}"
)


@pytest.mark.parametrize("template", [CHATML, LLAMA3, QUOTES, GEMMA, FOLDS])
def test_chat_templates_with_fixed_texts_around_messages(template: str) -> None:
    render = rendered(template)
    go = go_of(render)
    for talk in TALKS:
        assert render_chat(go, fields_of(talk, template)) == wanted(render, talk)


@pytest.mark.parametrize("template", [QUOTES, GEMMA, FOLDS], ids=["quotes", "gemma", "folds"])
def test_gos_own_templates_render_the_same(template: str) -> None:
    render = rendered(template)
    given = render_with_go(go_of(render), [fields_of(talk, template) for talk in TALKS])
    assert given == [wanted(render, talk) for talk in TALKS]


def go_of(render: Callable[[list[dict[str, str]], bool], str]) -> str:
    """The Go template, as Ollama reads it from the Modelfile."""
    text = modelfile("a.gguf", chat_go_template(render, "<s>"), "<|eot|>", "Note.")
    return dict(parse_modelfile(text))["template"]


def fields_of(talk: list[tuple[str, str]], template: str) -> list[dict[str, str]]:
    trims = template in (LLAMA3, GEMMA)
    return [{"Role": role, "Content": content.strip() if trims else content} for role, content in talk]


def wanted(render: Callable[[list[dict[str, str]], bool], str], talk: list[tuple[str, str]]) -> str:
    return render([{"role": role, "content": content} for role, content in talk], True).removeprefix("<s>")


def test_a_template_that_begins_every_turn_with_bos_has_no_modelfile() -> None:
    """llama.cpp adds BOS in front of the first turn, and the template would add it once more."""
    turns = "{% for m in messages %}{{ '<s>[' + m.role + ']' + m.content }}{% endfor %}"
    each = turns + "{{ '<s>[a]' * add_generation_prompt }}"
    assert chat_go_template(rendered(each), "<s>") == ""
    assert chat_go_template(rendered(each), "") != ""


@pytest.mark.parametrize("template", [
    "{% if messages[0].role != 'system' %}DEFAULT{% endif %}" + CHATML,
    CHATML.replace("m.content", "('x' if loop.last else 'y') + m.content"),
    CHATML.replace("m.content", "m.content|upper"),
    CHATML.replace("m.content", "(raise_exception('no system') if m.role == 'system' else m.content)"),
    "{{ messages[0].content }}",
])  # fmt: skip
def test_chat_templates_that_do_more_have_no_modelfile(template: str) -> None:
    assert chat_go_template(rendered(template), "") == ""


@pytest.mark.parametrize("text", ["TEMPLATE x", "FROM a\nEVIL b", 'FROM a\nSYSTEM """b', "FROM a\nPARAMETER"])
def test_the_parser_refuses_what_ollama_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_modelfile(text)


def test_the_parser_reads_what_ollama_reads() -> None:
    text = '# c\n\nFROM llama3\nSYSTEM """a\n"b"\n"""\nPARAMETER stop "<|x|>"\nPARAMETER temperature 0\n'
    assert parse_modelfile(text) == [
        ("model", "llama3"), ("system", 'a\n"b"\n'), ("stop", "<|x|>"), ("temperature", "0"),
    ]  # fmt: skip
