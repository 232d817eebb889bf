"""Ollama's `Modelfile` for a GGUF file: the template of the training in Go's template syntax, and where answers end.

    FROM ./mine-f16.gguf
    TEMPLATE ...{{ if .System }}...{{ else }}...### Instruction: {{ .Prompt }}...{{ end }}{{ .Response }}</s>
    PARAMETER stop "</s>"

Ollama gives a template two texts, .Prompt and .System. A template of rows has two, too, the instruction and its input,
so .System is the input: without one the form without input is rendered. What follows {{ .Response }} is rendered only
behind answers of earlier turns. A chat template is a program; if it only puts fixed texts around each message, as
ChatML and Llama 3 do, so does the Go template, over .Messages. A system message may also stand inside the next user
message, as in Gemma's; then the Go template keeps it in a variable until that message:

    {{ $system := "" }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $system = .Content }}
    {{ else if eq .Role "user" }}<start_of_turn>user
    {{ if $system }}{{ $system }}...{{ $system = "" }}{{ end }}{{ .Content }}<end_of_turn>...

BOS is added by llama.cpp (`tokenizer.ggml.add_bos_token`).

Grammar: https://github.com/ollama/ollama/blob/main/parser/parser.go, `ParseFile`
Template: https://github.com/ollama/ollama/blob/main/template/template.go, `Execute`
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.prompt.template import SLOT, Template
from pipeline.run.errors import UserError

Message = dict[str, str]  # role and content
Render = Callable[[list[Message], bool], str]

NAME = "Modelfile"
SLOTS = {"{instruction}": "{{ .Prompt }}", "{input}": "{{ .System }}"}
# Two braces begin an action (a text may end with one in front of a slot), three quotes end the text in the Modelfile.
DANGEROUS = re.compile(r'[{}]+|"{2,}|^"|"$')


def modelfile(file: str, template: str, end: str, note: str) -> str:
    """The text of a Modelfile.

    Args:
        file: name of the GGUF file beside it. template: of Go, see `go_template`. end: the token that ends an answer.
        note: one line about the template.

    Raises:
        UserError: the end token cannot be written there.
    """
    if '"' in end or not end.isprintable():
        raise UserError(f"Ollama's Modelfile cannot hold the end token {end!r}", "prompt.template", "choose another")
    return (
        f'# ollama create NAME -f {NAME}\n# {note}\nFROM ./{file}\nTEMPLATE """{template}"""\nPARAMETER stop "{end}"\n'
    )


def go_template(template: Template, end: str) -> str:
    """The prompt of the training as a Go template."""
    with_input, without = (_form(form) for form in (template.prompt_input, template.prompt_no_input))
    # Not `answer_prefix`: the model writes it, so it is part of the response.
    return f"{{{{ if .System }}}}{with_input}{{{{ else }}}}{without}{{{{ end }}}}{{{{ .Response }}}}{_literal(end)}"


def chat_go_template(render: Render, bos: str) -> str:
    """A chat template as a Go template, for those that put fixed texts around each message; empty for all others.

    The texts are read off conversations, and tried on more of them.

    Args:
        render: the chat template: messages, and whether an answer shall follow. bos: what llama.cpp adds itself; empty
            if nothing.
    """
    try:
        texts = _around(render)
        if texts is None or not all(_joined(texts, talk) == render(talk, True) for talk in PROBES):
            return ""
    except Exception:  # a template may refuse a conversation, by errors of its own: a system message, most often
        return ""
    if bos and any(bos in text for pair in texts.around.values() for text in pair):
        return ""  # it begins more than one turn, and llama.cpp would add another one in front of the first
    start = _literal(texts.start.removeprefix(bos))
    keep, turns = "", {role: _turn(*pair) for role, pair in texts.around.items()}
    if texts.fold is not None:
        before, behind = texts.around["user"]
        inside = f'{_literal(texts.fold[0])}{{{{ $system }}}}{_literal(texts.fold[1])}{{{{ $system = "" }}}}'
        keep = '{{ $system := "" }}'
        turns = {"system": "{{ $system = .Content }}", **turns}
        turns["user"] = _turn(before, behind, f"{{{{ if $system }}}}{inside}{{{{ end }}}}")
    branches = "{{ else if ".join(f'eq .Role "{role}" }}}}{turn}' for role, turn in turns.items())
    return f"{keep}{start}{{{{ range .Messages }}}}{{{{ if {branches}{{{{ end }}}}{{{{ end }}}}{_literal(texts.answer)}"


@dataclass(frozen=True)
class _Texts:
    """start: of a conversation. around: what stands before and behind a message, by role. answer: opens an answer.
    fold: what stands around a system message inside the next user message; None where it is a message like others."""

    start: str
    around: dict[str, tuple[str, str]]
    answer: str
    fold: tuple[str, str] | None = None


def _around(render: Render) -> _Texts | None:
    """The fixed texts of a chat template, if it has such.

    start [before user] Q0 [behind user] [before assistant] A0 [behind assistant] [before user] Q1 ... answer
    start [before system] S0 [behind system] [before user] Q0 ...
    start [before user] [fold] S0 [fold] Q0 ...
    """
    first, between, later, last = _split(render(_talk("Q0", "A0", "Q1"), True), "Q0", "A0", "Q1")
    _, tail = _split(render(_talk("Q0"), False), "Q0")
    _, _, closing = _split(render(_talk("Q0", "A0"), False), "Q0", "A0")
    system, behind_system, _ = _split(render([_message("system", "S0"), *_talk("Q0")], True), "S0", "Q0")
    if not (last.startswith(tail) and between.startswith(tail) and later.startswith(closing)):
        return None
    before = later[len(closing) :]
    if not first.endswith(before):
        return None
    start = first[: len(first) - len(before)]
    around = {"user": (before, tail), "assistant": (between[len(tail) :], closing)}
    answer = last[len(tail) :]
    if system.startswith(start) and behind_system.endswith(before):
        own = (system[len(start) :], behind_system[: len(behind_system) - len(before)])
        return _Texts(start, {"system": own, **around}, answer)
    if system.startswith(start + before):
        return _Texts(start, around, answer, (system[len(start + before) :], behind_system))
    return None


def _joined(texts: _Texts, messages: list[Message]) -> str:
    """What the Go template renders."""
    turns, system = "", ""
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "system" and texts.fold is not None:
            system = content
            continue
        before, behind = texts.around[role]
        inside = system.join(texts.fold) if role == "user" and system and texts.fold is not None else ""
        system = "" if role == "user" else system
        turns += before + inside + content + behind
    return texts.start + turns + texts.answer


def _turn(before: str, behind: str, inside: str = "") -> str:
    """A message in the Go template. inside: Go, in front of its content."""
    return f"{_literal(before)}{inside}{{{{ .Content }}}}{_literal(behind)}"


def _split(text: str, *contents: str) -> list[str]:
    """What stands around the contents.

    Raises:
        ValueError: one is not there once, in this order.
    """
    parts = []
    for content in contents:
        if text.count(content) != 1:
            raise ValueError(content)
        before, _, text = text.partition(content)
        parts.append(before)
    return [*parts, text]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _talk(*contents: str) -> list[Message]:
    return [_message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]


PROBES = [
    [*system, *_talk(*turns)]
    for system in ([], [_message("system", "Be kind.")])
    for turns in (("Hello.",), ("Hello.", "Hi.", "And?"), ("One\n\ntwo", "a", "b", "c", "d {x}"))
]


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
