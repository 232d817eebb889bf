"""Chat templates: Jinja programs that render a whole conversation, as models ship them.

`prompt.template: base` is the one in the base's folder, `chatml` and so on are in `templates/chat/`, and a path that
ends in `.jinja` is one of the user's own.

What a template asks its caller for is fixed here, in front of its text, so that training, export and chat agree and a
client that passes nothing gets what was trained:

- `strftime_now` (Llama 3.2, SmolLM3) writes `prompt.date`. `date_string` (Llama 3.1) has a default of its own in the
  template; it is set if the date is not the default.
- `enable_thinking` (Qwen3) is false unless the client says otherwise: the data have answers without reasoning, and the
  template then opens them with the empty block that the model writes in this mode.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.config.chat_forms import BASE, BUILT_IN
from pipeline.config.schema import DATE, Prompt
from pipeline.run.encoding import read_text
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, sha256_json

FOLDER = Path(__file__).parent / "templates" / "chat"
IN_BASE = "chat_template.jinja"
DEFAULT = "default"  # of several named templates
LARGEST = 1_000_000  # characters
FORMAT = re.compile(r"strftime_now\(\s*(\"[^\"]*\"|'[^']*')\s*\)")
DATE_STRING = "%d %b %Y"  # the form of `date_string` in Llama 3.1's template
THINKING = "{%- if enable_thinking is not defined -%}{%- set enable_thinking = false -%}{%- endif -%}"


@dataclass(frozen=True)
class ChatTemplate:
    """text: the Jinja program, with what `prompt` fixes in front. loss: `prompt.loss`, which answers are learnt."""

    id: str
    text: str
    loss: str = "answers"

    answer_prefix: ClassVar[str] = ""  # what a template of rows has; here it is in the program
    forms: ClassVar[tuple[str, ...]] = ()

    @property
    def hash(self) -> str:
        """Hash of what is rendered and learnt; the id does not count."""
        return sha256_json([self.text, self.loss])[:16]

    def answer(self, output: str) -> str:
        """The text that carries loss, without the end token."""
        return output


def load(prompt: Prompt, tokenizer: Path) -> ChatTemplate:
    """The template that `prompt.template` names. tokenizer: folder of the base's tokenizer.

    Raises:
        UserError: there is none, it cannot be read, or the base has several and none is the default.
    """
    path = path_of(prompt.template, tokenizer)
    text = _of_base(tokenizer) if prompt.template == BASE else read_text(path)
    if len(text) > LARGEST:
        raise UserError(f"the chat template has {len(text):,} characters", str(path), f"at most {LARGEST:,}")
    return ChatTemplate(BASE if prompt.template == BASE else path.stem, fixed(text, prompt.date), prompt.loss)


def path_of(name: str, tokenizer: Path) -> Path:
    """The file of a template, for messages and manifests.

    Raises:
        UserError: no such file.
    """
    if name == BASE:
        own = tokenizer / IN_BASE
        return own if own.is_file() else tokenizer / "tokenizer_config.json"
    if name in BUILT_IN:
        return FOLDER / f"{name}.jinja"
    if not os.path.isfile(name):
        fix = f"name an existing file, `base`, or one of {', '.join(BUILT_IN)}"
        raise UserError(f"no such chat template: {name[:80]!r}", "prompt.template", fix)
    return Path(name)


def fixed(text: str, date: str) -> str:
    """The template with the date and the thinking mode fixed in front; a text that has them already stays as it is."""
    front = _front(text, date)
    return text if not front or text.startswith(front) else front + text


def _front(text: str, date: str) -> str:
    day = datetime.date.fromisoformat(date)
    front = ""
    formats = dict.fromkeys(json.loads(f'"{quoted[1:-1]}"') for quoted in FORMAT.findall(text))
    if formats:
        cases = "".join(f"{{%- if format == {json.dumps(f)} -%}}{day.strftime(f)}{{%- endif -%}}" for f in formats)
        front += f"{{%- macro strftime_now(format) -%}}{cases}{{%- endmacro -%}}"
    elif "date_string" in text and date != DATE:
        front += f'{{%- if date_string is not defined -%}}{{%- set date_string = "{day.strftime(DATE_STRING)}" -%}}'
        front += "{%- endif -%}"
    if "enable_thinking" in text:
        front += THINKING
    # transformers removes the line break after a block, so the template's own text begins a line, as before.
    return front.removesuffix("-%}") + "%}\n" if front else ""


def _of_base(folder: Path) -> str:
    """The base's own template: the file, or the field of tokenizer_config.json.

    Raises:
        UserError: there is none, or there are several without a default.
    """
    if (folder / IN_BASE).is_file():
        return read_text(folder / IN_BASE)
    where, others = str(folder / "tokenizer_config.json"), f"choose one: {', '.join(BUILT_IN)}"
    found = None
    for file in ("tokenizer_config.json", "chat_template.json"):
        values = read_json(folder / file)
        found = found or (values.get("chat_template") if isinstance(values, dict) else None)
    if isinstance(found, list):
        named = {part.get("name"): part.get("template") for part in found if isinstance(part, dict)}
        if not isinstance(named.get(DEFAULT), str):
            names = ", ".join(sorted(str(name) for name in named))
            what = f"the base has several chat templates ({names}) and none is named {DEFAULT!r}"
            raise UserError(what, where, "write the one you want into a file: prompt.template=my.jinja")
        found = named[DEFAULT]
    if not isinstance(found, str) or not found.strip():
        raise UserError("prompt.template=base, and this base has no chat template", str(folder), others)
    return found
