"""The parts of Ollama that a Modelfile meets: its parser, and as much of Go's text/template as Suri writes.

Grammar: https://github.com/ollama/ollama/blob/main/parser/parser.go, `ParseFile` and `unquote`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

COMMANDS = ("from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
            "requires")  # fmt: skip
# A string may hold closing braces.
TOKEN = re.compile(r'\{\{ (?P<action>"(?:\\.|[^"\\])*"|\.\w+|if \.\w+|else|end) \}\}')


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """(command, argument) pairs; parameters by their name.

    Raises:
        ValueError: as Ollama refuses it.
    """
    commands: list[tuple[str, str]] = []
    rest = text
    while rest := rest.lstrip(" \t\r\n"):
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        name, value_with_rest = _word(rest, r"[A-Za-z]+")
        if name.lower() not in COMMANDS:
            raise ValueError(f"not a command: {name}")
        name = name.lower()
        if name == "parameter":
            name, value_with_rest = _word(value_with_rest, r"[A-Za-z0-9_]+")
        value, rest = _value(value_with_rest)
        commands.append(("model" if name == "from" else name, value))
    if "model" not in dict(commands):
        raise ValueError("no FROM line")
    return commands


def _word(text: str, pattern: str) -> tuple[str, str]:
    match = re.match(rf"({pattern})[ \t]", text)
    if not match:
        raise ValueError(f"not a command: {text[:20]!r}")
    return match[1], text[match.end() :]


def _value(text: str) -> tuple[str, str]:
    """The argument, up to the first line break at which it is complete. Characters that do not print are dropped."""
    kept = ""
    for at, char in enumerate(text):
        if char in "\r\n" and (value := _unquoted(kept.strip())) is not None:
            return value, text[at:]
        kept += char if char in " \t\r\n" or char.isprintable() else ""
    if (value := _unquoted(kept.strip())) is None:
        raise ValueError("unexpected end of the file")
    return value, ""


def _unquoted(text: str) -> str | None:
    for quote in ('"""', '"'):
        if text.startswith(quote):
            return text[len(quote) : -len(quote)] if len(text) >= 2 * len(quote) and text.endswith(quote) else None
    return text


def render(template: str, values: Mapping[str, str]) -> str:
    """Executes a template of texts, fields, strings and one level of if and else.

    Raises:
        ValueError: an action that is none of these.
    """
    out, at, shown = "", 0, [True]
    while at < len(template):
        start = template.find("{{", at)
        if start < 0:
            start = len(template)
        out += template[at:start] if all(shown) else ""
        if start == len(template):
            break
        match = TOKEN.match(template, start)
        if not match:
            raise ValueError(f"not an action: {template[start : start + 30]!r}")
        action, at = match["action"], match.end()
        if action.startswith("if "):
            shown.append(bool(values.get(action[4:])))
        elif action == "else":
            shown[-1] = not shown[-1]
        elif action == "end":
            shown.pop()
        elif all(shown):
            out += json.loads(_as_json(action)) if action.startswith('"') else values.get(action[1:], "")
    if len(shown) != 1:
        raise ValueError("an if without its end")
    return out


def _as_json(text: str) -> str:
    """Go's \\Uxxxxxxxx as JSON has it."""
    return re.sub(r"\\U([0-9a-f]{8})", lambda m: json.dumps(chr(int(m[1], 16)))[1:-1], text)


def prompt_of(template: str, values: Mapping[str, str]) -> str:
    """What Ollama sends for the last turn: all in front of {{ .Response }}."""
    return render(template.partition("{{ .Response }}")[0], values)


def render_chat(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Executes a template of one `range .Messages` over branches by role."""
    start, _, rest = template.partition("{{ range .Messages }}")
    body, _, answer = rest.rpartition("{{ end }}{{ end }}")
    branches = re.split(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}', body)
    by_role = dict(zip(branches[1::2], branches[2::2], strict=True))
    turns = "".join(render(by_role[message["Role"]], message) for message in messages)
    return render(start, {}) + turns + render(answer, {})
