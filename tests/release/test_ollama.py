"""Ollama's Modelfile: parsed by Ollama's grammar, its template renders the training's prompt."""

from __future__ import annotations

import pytest

from pipeline.prompt.template import Template, load, names
from pipeline.release.ollama import modelfile
from pipeline.run.errors import UserError
from tests.helpers.go_template import parse_modelfile, prompt_of, render

HARD = Template(
    "hard",
    '""" {{ .Evil }} }}{{{instruction}}}\u200b\u00a0\x01\t"{input}" """\nA "" {{"x"}} `$x` \\n {{- trim -}} 🙂 ',
    '"{instruction}" {{/* c */}}\r\n한국어: ',
    answer_prefix=' "',
)
TEXTS = ['Say "hello".', "{{ .System }}", '"""', "두 줄\n\n그리고 🙂", " spaces ", "{input}"]


@pytest.mark.parametrize("template", [HARD, *(load(name) for name in names())], ids=lambda template: template.id)
def test_it_renders_the_prompt_of_the_training(template: Template) -> None:
    commands = dict(parse_modelfile(modelfile("mine-f16.gguf", template, "</s>")))
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
        modelfile("a.gguf", HARD, '"')
    assert modelfile("a.gguf", object(), "</s>") == ""  # a chat template


@pytest.mark.parametrize("text", ["TEMPLATE x", "FROM a\nEVIL b", 'FROM a\nSYSTEM """b', "FROM a\nPARAMETER"])
def test_the_parser_refuses_what_ollama_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_modelfile(text)


def test_the_parser_reads_what_ollama_reads() -> None:
    text = '# c\n\nFROM llama3\nSYSTEM """a\n"b"\n"""\nPARAMETER stop "<|x|>"\nPARAMETER temperature 0\n'
    assert parse_modelfile(text) == [
        ("model", "llama3"), ("system", 'a\n"b"\n'), ("stop", "<|x|>"), ("temperature", "0"),
    ]  # fmt: skip
