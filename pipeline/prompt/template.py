"""A template is data: two prompts (with and without input), what stands before the answer, and what ends it.

Slots are filled literally and in one pass: `{input}` inside an instruction stays text.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.chat_forms import BASE, SUFFIX, is_chat
from pipeline.config.chat_forms import BUILT_IN as CHAT_FORMS
from pipeline.dataset.read.conversation import HISTORY, LABELS
from pipeline.run.encoding import read_text
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import sha256_json
from pipeline.run.nearest import nearest
from pipeline.run.yaml_text import parsed

BUILT_IN = Path(__file__).parent / "templates"
KEYS = ("id", "prompt_input", "prompt_no_input", "answer_prefix", "end")
SLOT = re.compile(r"(\{instruction\}|\{input\})")


@dataclass(frozen=True)
class Template:
    """end: "eos" (the tokenizer's own end token), or the special token that ends an answer."""

    id: str
    prompt_input: str
    prompt_no_input: str
    answer_prefix: str = ""
    end: str = "eos"

    @property
    def hash(self) -> str:
        """Hash of what the template renders; its id does not count."""
        return sha256_json([self.prompt_input, self.prompt_no_input, self.answer_prefix, self.end])[:16]

    def prompt(self, instruction: str, input: str = "") -> str:
        """The text before the answer; the form with input is used if `input` is not empty."""
        form = self.prompt_input if input else self.prompt_no_input
        parts = {"{instruction}": instruction, "{input}": input}
        return "".join(parts.get(piece, piece) for piece in SLOT.split(form))

    def answer(self, output: str) -> str:
        """The text that carries loss, without the end token."""
        return self.answer_prefix + output

    @property
    def forms(self) -> tuple[str, ...]:
        """Its texts with slots."""
        return self.prompt_input, self.prompt_no_input

    def jinja(self, bos: str, end: str) -> str:
        """The same template as a Hugging Face chat template: it renders the row that training would have made of a
        conversation (`pipeline.dataset.read.conversation`).

        The last user turn is the instruction, with the system text and a blank line in front; earlier turns are the
        input, at most `HISTORY` characters of them. A message may carry `input` beside `content`. Strings become Jinja
        literals, so template text is never code.
        """

        def form(text: str) -> str:
            names = {"{instruction}": "row.instruction", "{input}": "row.input"}
            return " + ".join(names.get(p) or _literal(p) for p in SLOT.split(text) if p)

        prefix = f"{_literal(self.answer_prefix)} + " if self.answer_prefix else ""
        return _CONVERSATION + (
            (("{{- " + _literal(bos) + " -}}") if bos else "")
            + "{%- if row.last -%}"
            + "{%- if row.input -%}{{- " + form(self.prompt_input) + " -}}"
            + "{%- else -%}{{- " + form(self.prompt_no_input) + " -}}{%- endif -%}"
            + "{%- endif -%}"
            + "{%- if row.last == 'assistant' -%}{{- " + prefix + "row.answer + " + _literal(end) + " -}}{%- endif -%}"
        )  # fmt: skip


# Reads `messages` into `row`: system, question, answer (texts so far), lines (earlier turns), last (role of the turn).
_CONVERSATION = (
    "{%- set row = namespace(system='', question='', answer='', given='', lines=[], last='', start=0) -%}"
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'system' -%}"
    "{%- if row.last -%}{{- raise_exception('a system message after the first turn was never trained') -}}{%- endif -%}"
    "{%- set row.system = (row.system + '\\n\\n' if row.system else '') + m['content'] -%}"
    "{%- elif m['role'] == 'user' -%}"
    "{%- if row.last == 'assistant' -%}"
    "{%- set asked = ['USER' + row.question] if row.question else [] -%}"
    "{%- set row.lines = row.lines + asked + ['ASSISTANT' + row.answer] -%}"
    "{%- endif -%}"
    "{%- set row.question = (row.question + '\\n\\n' if row.last == 'user' else '') + m['content'] -%}"
    "{%- set row.given = m['input'] or '' -%}"
    "{%- set row.last = 'user' -%}"
    "{%- elif m['role'] == 'assistant' -%}"
    "{%- set row.answer = (row.answer + '\\n\\n' if row.last == 'assistant' else '') + m['content'] -%}"
    "{%- set row.last = 'assistant' -%}"
    "{%- else -%}{{- raise_exception('this template knows the roles system, user and assistant only') -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- for line in row.lines -%}"
    "{%- if row.lines[row.start:] | join('\\n') | length > MOST and row.start < row.lines | length - 2 -%}"
    "{%- set row.start = row.start + (2 if row.lines[row.start].startswith('USER') else 1) -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- set row.instruction = (row.system + '\\n\\n' if row.system else '') + row.question -%}"
    "{%- set earlier = row.lines[row.start:] | join('\\n') -%}"
    "{%- set row.input = earlier + ('\\n\\n' if earlier and row.given else '') + row.given -%}"
)
_CONVERSATION = (
    _CONVERSATION.replace("ASSISTANT", f"{LABELS['assistant']}: ")
    .replace("USER", f"{LABELS['user']}: ")
    .replace("MOST", str(HISTORY))
)


def _literal(text: str) -> str:
    """A Jinja string. Letters are not escaped: Jinja does not join the two halves of JSON's escapes for emoji."""
    return json.dumps(text, ensure_ascii=False)


def names() -> list[str]:
    """The built-in templates."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def path_of(name: str) -> Path:
    """The YAML file of a built-in name or of the user's own template.

    Raises:
        UserError: neither exists.
    """
    if name in names():
        return BUILT_IN / f"{name}.yaml"
    if os.path.isfile(name):  # not Path.is_file, which fails on a whole template pasted as a name
        return Path(name)
    known = [*names(), BASE, *CHAT_FORMS]
    fix = nearest(name, known, f"built in: {', '.join(known)}; or give the path of a YAML or .jinja file")
    raise UserError(f"unknown template {name[:80]!r}", "prompt.template", fix)


def load(name: str) -> Template:
    """Loads and checks a template.

    Raises:
        UserError: unknown name, unreadable file, or what `problems_of` finds, all of it in one message.
    """
    path = path_of(name)
    values = _read(path)
    if problems := problems_of(values):
        if len(problems) == 1:
            raise UserError(problems[0][0], str(path), problems[0][1])
        lines = "".join(f"\n  - {what}; {fix}" for what, fix in problems)
        raise UserError(f"{len(problems)} problems in the template:{lines}", str(path))
    return Template(**{"id": path.stem, **values})


def problems(name: str) -> list[str]:
    """Everything that `load` would stop at, one line each with the file and what to do."""
    if is_chat(name):  # what such a template does is known when its base is
        missing = name.endswith(SUFFIX) and not os.path.isfile(name)
        return [f"no such chat template: {name[:80]!r}; name an existing .jinja file"] if missing else []
    try:
        path = path_of(name)
        return [f"{path}: {what}; {fix}" for what, fix in problems_of(_read(path))]
    except UserError as error:
        where = "" if error.where == "prompt.template" else f"{error.where}: "
        return [f"{where}{error.what}; {error.fix}"]


def _read(path: Path) -> dict[str, Any]:
    """The table in a template's file.

    Raises:
        UserError: it cannot be read or is no table.
    """
    text = read_text(path)
    try:
        values = parsed(text)[1]
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = one_line(error, 200)
        raise UserError(f"not a readable template: {reason}", str(path), "see pipeline/prompt/templates") from None
    if not isinstance(values, dict):
        raise UserError("a template is a table of keys", str(path), f"keys: {', '.join(KEYS)}")
    return values


def problems_of(values: dict[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with a template's values, and what to do.

    An unknown key, a value that is no text, a form that lacks its slot, has it twice or holds one that is never filled.
    """
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if key not in KEYS:
            found.append((f"unknown key {key!r}", nearest(str(key), KEYS, f"keys: {', '.join(KEYS)}")))
        elif not isinstance(value, str):
            found.append((f"{key} is not text", "put it in quotes"))
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    for key, slots in (("prompt_input", ("{instruction}", "{input}")), ("prompt_no_input", ("{instruction}",))):
        if key not in values:
            found.append((f"{key} is missing", "a template has a form with input and one without"))
        for slot in slots if key in texts else ():
            times = texts[key].count(slot)
            if times != 1:
                fix = f"put {slot} where the text belongs" if times == 0 else f"keep one {slot}"
                found.append((f"{key} holds {slot} {times} times, not once", fix))
    if "{input}" in texts.get("prompt_no_input", ""):
        found.append(("prompt_no_input holds {input}, which is empty there", "remove it"))
    for key in ("prompt_input", "prompt_no_input", "answer_prefix"):
        for slot in ("{output}", "{response}"):
            if slot in texts.get(key, ""):
                found.append((f"{key} holds {slot}; the answer is appended automatically", f"remove {slot}"))
    for slot in ("{instruction}", "{input}"):
        if slot in texts.get("answer_prefix", ""):
            found.append((f"answer_prefix holds {slot}, which is not filled there", f"remove {slot}"))
    if texts.get("end") == "":
        found.append(("end is empty, so an answer would never end", "eos, or a token such as <|endoftext|>"))
    return found
