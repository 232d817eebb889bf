"""Ollama's `Modelfile` for a GGUF file: the template of the training in Go's template syntax, and where answers end.

    FROM ./mine-f16.gguf
    TEMPLATE ...{{ if .System }}...{{ else }}...### Instruction: {{ .Prompt }}...{{ end }}{{ .Response }}</s>
    PARAMETER stop "</s>"

Ollama gives a template two texts, .Prompt and .System. A template of rows has two, too, the instruction and its input,
so .System is the input: without one the form without input is rendered. What follows {{ .Response }} is rendered only
behind answers of earlier turns. BOS is added by llama.cpp (`tokenizer.ggml.add_bos_token`).

Grammar: https://github.com/ollama/ollama/blob/main/parser/parser.go, `ParseFile`
Template: https://github.com/ollama/ollama/blob/main/template/template.go, `Execute`
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.prompt.template import SLOT, Template
from pipeline.run.errors import UserError

NAME = "Modelfile"
SLOTS = {"{instruction}": "{{ .Prompt }}", "{input}": "{{ .System }}"}
# Two braces begin an action (a text may end with one in front of a slot), three quotes end the text in the Modelfile.
DANGEROUS = re.compile(r'[{}]+|"{2,}|^"|"$')


def modelfile(file: str, template: Any, end: str) -> str:
    """The text of a Modelfile; empty for a chat template, which is a program that Go's templates cannot follow.

    Args:
        file: name of the GGUF file beside it. end: the token that ends an answer.

    Raises:
        UserError: the end token cannot be written there.
    """
    if not isinstance(template, Template):
        return ""
    if '"' in end or not end.isprintable():
        raise UserError(f"Ollama's Modelfile cannot hold the end token {end!r}", "prompt.template", "choose another")
    return (
        f"# ollama create NAME -f {NAME}\n"
        "# The system message of a request, if any, is the input of the instruction, as in training.\n"
        f"FROM ./{file}\n"
        f'TEMPLATE """{go_template(template, end)}"""\n'
        f'PARAMETER stop "{end}"\n'
    )


def go_template(template: Template, end: str) -> str:
    """The prompt of the training as a Go template."""
    with_input, without = (_form(form) for form in (template.prompt_input, template.prompt_no_input))
    # Not `answer_prefix`: the model writes it, so it is part of the response.
    return f"{{{{ if .System }}}}{with_input}{{{{ else }}}}{without}{{{{ end }}}}{{{{ .Response }}}}{_literal(end)}"


def _form(text: str) -> str:
    return "".join(SLOTS.get(piece) or _literal(piece) for piece in SLOT.split(text))


def _literal(text: str) -> str:
    """Text that Go renders as it is. Characters that Ollama's parser drops or reads otherwise become Go strings."""
    quoted = DANGEROUS.sub(lambda match: _action(match[0]), text)
    return "".join(c if c.isprintable() or c in "\n\t" else _action(c) for c in quoted)


def _action(text: str) -> str:
    """`{{ "..." }}`; quotes as an escape, since the Modelfile counts them."""
    escaped = "".join(c if c in "{}" else f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}" for c in text)
    return f'{{{{ "{escaped}" }}}}'
