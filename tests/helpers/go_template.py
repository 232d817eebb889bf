"""The parts of Ollama that a Modelfile meets: its parser, and as much of Go's text/template as Suri writes.

Grammar: https://github.com/ollama/ollama/blob/main/parser/parser.go, `ParseFile` and `unquote`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

COMMANDS = ("from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
            "requires")  # fmt: skip
# Executes a template over conversations, as Ollama does (`Execute` in template/template.go).
PROGRAM = """package main

import ("bytes"; "encoding/json"; "os"; "text/template")

type Message struct { Role, Content string }

func main() {
	var asked struct { Template string; Talks [][]Message }
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil { panic(err) }
	parsed := template.Must(template.New("").Parse(asked.Template))
	var out []string
	for _, talk := range asked.Talks {
		var text bytes.Buffer
		if err := parsed.Execute(&text, map[string]any{"Messages": talk, "Response": ""}); err != nil { panic(err) }
		out = append(out, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
"""
STRING = r'"(?:\\.|[^"\\])*"'  # may hold closing braces
ACTION = re.compile(rf'\{{\{{ (?P<action>(?:{STRING}|[^"}}])*) \}}\}}')
SET = re.compile(r"(\$\w+) :?= (.+)")
EQUAL = re.compile(rf"eq (\.\w+) ({STRING})")
Values = Mapping[str, Any]


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


def render(template: str, values: Values) -> str:
    """Executes a template of texts, fields, strings, variables, `if` with `else if` and `else`, `eq`, and `range` over
    messages.

    Raises:
        ValueError: an action that is none of these, or one without its end.
    """
    return _Template(template).run(values)


class _Template:
    """The parts of a template, and what its variables hold."""

    def __init__(self, text: str) -> None:
        self.parts: list[tuple[str, bool]] = []  # a text, or an action
        self.variables: dict[str, str] = {}
        at = 0
        while (start := text.find("{{", at)) >= 0:
            match = ACTION.match(text, start)
            if not match:
                raise ValueError(f"not an action: {text[start : start + 30]!r}")
            self.parts += [(text[at:start], False), (match["action"], True)]
            at = match.end()
        self.parts.append((text[at:], False))

    def run(self, values: Values) -> str:
        out, end = self._block(0, values, True)
        if end < len(self.parts):
            raise ValueError(f"unexpected {self.parts[end][0]}")
        return out

    def _block(self, at: int, values: Values, shown: bool) -> tuple[str, int]:
        """Executes up to the `else` or `end` that belongs to something around it; its place is the second value."""
        out = ""
        while at < len(self.parts):
            text, is_action = self.parts[at]
            if not is_action:
                out += text if shown else ""
            elif text == "end" or text.startswith("else"):
                return out, at
            elif text.startswith("if "):
                more, at = self._if(at, text[3:], values, shown)
                out += more
            elif text == "range .Messages":
                more, at = self._range(at, values, shown)
                out += more
            elif shown:
                out += self._value(text, values)
            at += 1
        return out, at

    def _if(self, at: int, condition: str, values: Values, shown: bool) -> tuple[str, int]:
        """One `if` to its `end`."""
        out, done = "", False
        while True:
            taken = shown and not done and bool(self._value(condition, values))
            more, at = self._block(at + 1, values, taken)
            out, done = out + more, done or taken
            if at == len(self.parts):
                raise ValueError("an if without its end")
            word = self.parts[at][0]
            if word == "end":
                return out, at
            condition = word.removeprefix("else").strip().removeprefix("if ") or '"true"'

    def _range(self, at: int, values: Values, shown: bool) -> tuple[str, int]:
        out, end = "", at
        for message in values["Messages"] if shown else []:
            more, end = self._block(at + 1, message, True)
            out += more
        if end == at:
            _, end = self._block(at + 1, values, False)
        if end == len(self.parts):
            raise ValueError("a range without its end")
        return out, end

    def _value(self, text: str, values: Values) -> str:
        """What an action prints; a condition is false where it is empty."""
        if match := EQUAL.fullmatch(text):
            return "true" if self._value(match[1], values) == self._value(match[2], values) else ""
        if match := SET.fullmatch(text):
            self.variables[match[1]] = self._value(match[2], values)
            return ""
        if text.startswith("$"):
            return self.variables[text]
        if re.fullmatch(r"\.\w+", text):
            return str(values.get(text[1:], ""))
        if re.fullmatch(STRING, text):
            return str(json.loads(_as_json(text)))
        raise ValueError(f"not an action: {text!r}")


def _as_json(text: str) -> str:
    """Go's \\Uxxxxxxxx as JSON has it."""
    return re.sub(r"\\U([0-9a-f]{8})", lambda m: json.dumps(chr(int(m[1], 16)))[1:-1], text)


def prompt_of(template: str, values: Mapping[str, str]) -> str:
    """What Ollama sends for the last turn: all in front of {{ .Response }}."""
    return render(template.partition("{{ .Response }}")[0], values)


def render_chat(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Executes a template over messages with Role and Content."""
    return render(template, {"Messages": list(messages)})


def render_with_go(template: str, talks: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
    """What Go's own text/template makes of each conversation; the test skips where there is no Go."""
    if not shutil.which("go"):
        pytest.skip("needs Go, whose text/template Ollama uses")
    asked = json.dumps({"Template": template, "Talks": [list(talk) for talk in talks]})
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "main.go"
        program.write_text(PROGRAM)
        done = subprocess.run(["go", "run", str(program)], input=asked, capture_output=True, text=True, timeout=300,
                              cwd=folder, env={**os.environ, "GO111MODULE": "off", "GOFLAGS": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr
    rendered: list[str] = json.loads(done.stdout)
    return rendered
