"""Ollama's Modelfile: parsed by Ollama's grammar, its template renders the training's prompt."""

from __future__ import annotations

from collections.abc import Callable

import jinja2
import pytest

from pipeline.prompt.template import Template, load, names
from pipeline.release.ollama import chat_go_template, go_template, modelfile
from pipeline.run.errors import UserError
from tests.helpers.go_template import parse_modelfile, prompt_of, render, render_chat

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
    return lambda messages, answer: made.render(messages=messages, add_generation_prompt=answer)


@pytest.mark.parametrize("template", [CHATML, LLAMA3, QUOTES])
def test_chat_templates_with_fixed_texts_around_messages(template: str) -> None:
    render = rendered(template)
    text = modelfile("a.gguf", chat_go_template(render, "<s>"), "<|eot|>", "Note.")
    go = dict(parse_modelfile(text))["template"]
    for talk in TALKS:
        messages = [{"role": role, "content": content} for role, content in talk]
        fields = [{"Role": role, "Content": content.strip()} for role, content in talk]
        if template is not LLAMA3:  # which trims
            fields = [{"Role": role, "Content": content} for role, content in talk]
        assert render_chat(go, fields) == render(messages, True).removeprefix("<s>")


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
