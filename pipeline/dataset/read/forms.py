"""Which form a row has. It is decided here, by the names of its fields (regardless of case); the first match counts.

    form                     fields                                                          its rows are made in
    columns                  the names in the source's `columns:`                            alpaca_form.py
    seeds                    instruction, instances (self-instruct)                          alpaca_form.py
    tree                     message_tree_id, prompt; or message_id, parent_id, role, text   tree.py
    alpaca, koalpaca, dolly, prompt/completion, question/answer, problem/solution,
    inputs/targets           see `FLAT`                                                      alpaca_form.py
    messages, sharegpt       messages, conversations or conversation; turns as Suri writes   conversation.py, whole.py
    preference               chosen (see `CHOSEN`) without a question field                  preference.py
    guanaco, ultrachat       see chat_text.py; only for chat templates                       whole.py
    text                     text: rejected, since it has no question
    unknown                  anything else: rejected

koalpaca is alpaca with a `url`, dolly is alpaca with a `response` and a `context` or `category`. `task` or `category`
is the task, `system` is put before the instruction, and `history` (pairs of question and answer) makes a row a
conversation. `alpaca_form.to_alpaca` turns a row of any form into rows of instruction, input and output.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.read.chat_text import form_of_text
from pipeline.dataset.read.columns import columns_line, guess_columns
from pipeline.dataset.read.conversation import CONVERSATION
from pipeline.dataset.read.preference import CHOSEN
from pipeline.dataset.read.tree import TREE, is_message
from pipeline.dataset.read.unused_fields import unused_content
from pipeline.run.errors import UserError

TEXTS = ("instruction", "input", "output")
OUTPUTS = ("response", "output", "answer", *CHOSEN)
OWN = frozenset(("instruction", "output", "turns", "language", "source", "id"))  # a conversation that Suri wrote
PRETOKENIZED = "_pretokenized"  # suffix of a field with the text, next to a field with its ids
FLAT: dict[str, dict[str, tuple[str, ...]]] = {  # form: our field: its names there; the first that exists is used
    "alpaca": {
        "instruction": ("instruction",),
        "input": ("input", "context"),
        "output": ("output", "response", "answer", "completion", *CHOSEN),
    },
    "prompt/completion": {
        "instruction": ("prompt",),
        "input": ("input", "context"),
        "output": ("completion", *OUTPUTS),
    },
    "question/answer": {
        "instruction": ("question", "query", "q", "질문"),
        "input": ("context", "input"),
        "output": ("answer", "response", "output", "a", "답변", *CHOSEN),
    },
    "problem/solution": {"instruction": ("problem",), "input": ("context",), "output": ("solution", *OUTPUTS)},
    "inputs/targets": {
        "instruction": (f"inputs{PRETOKENIZED}", "inputs"),
        "output": (f"targets{PRETOKENIZED}", "targets"),
    },
}
# Forms whose rows are made from a list, which `columns` cannot name, and what in it can hold further content.
LISTS = {"seeds": "the inputs", **dict.fromkeys(("conversation", "chosen", "tree"), "a message")}
EXTRA = {
    "task": ("task", "category"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "thread": ("thread",),
}


@dataclass(frozen=True)
class Form:
    """How rows with certain field names are read.

    fields: our names to theirs. missing: our required field that does not exist under the name `expected`.
    is_alpaca: the row has our names already. unused: fields with content that the form does not use.
    """

    name: str
    fields: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    expected: str = ""
    is_alpaca: bool = False
    unused: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.name not in ("text", "unknown") and not self.missing


def form_name(row: Any, source: Source | None = None, whole: bool = False) -> str:
    """The form of a row by the name that reports use (first column of the table above). whole: for chat templates."""
    if not isinstance(row, dict):
        return "unknown"
    if whole and (name := form_of_text(row)):
        return name
    form = form_of(row, source.columns if source else {})
    if form.name != "conversation":
        return "preference" if form.name == "chosen" else form.name
    messages = row[form.fields["conversation"]]
    first = messages[0] if isinstance(messages, list) and messages else messages
    return "sharegpt" if isinstance(first, dict) and ("from" in first or "value" in first) else "messages"


def is_row(value: dict[str, Any]) -> bool:
    """Whether an object is a row of a known form with all required fields."""
    return form_of(value, {}).complete


def form_of(row: dict[str, Any], columns: dict[Any, str]) -> Form:
    """The form of a row. columns: of its source.

    A null counts as an absent field if another form is complete without it, or if another field can be used instead:
    tables have no other way to leave a field out.
    """
    settings = tuple(columns.items())
    form = _form_of_names(tuple(row), settings)
    if form.missing or any(row[theirs] is None for theirs in form.fields.values()):
        other = _form_of_names(tuple(key for key, value in row.items() if value is not None), settings)
        if other.complete and (other.name != form.name or form.unused):
            return other
    return form


def lacks_optional_field_only(form: Form, source: Source) -> bool:
    """Whether the only missing field is one that this source does not need."""
    return bool(form.missing) and form.missing not in source.needs and form.expected not in source.columns.values()


def require_columns(names: Sequence[str], source: Source, where: str) -> None:
    """Checks that a table with these columns can give rows.

    Raises:
        UserError: two have one name; or it cannot, with the columns of the table and the `columns:` line to write.
    """
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"two columns are called {name[:40]!r}", where, "give each column a different name")
    form = _form_of_names(tuple(names), tuple(source.columns.items()))
    if form.complete or lacks_optional_field_only(form, source):
        return
    listed = ", ".join(repr(name[:40]) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    if any("\udc80" <= character <= "\udcff" for name in names for character in name):
        fix = "save the file as UTF-8; Korean files are often CP949: iconv -f CP949 -t UTF-8 old > new"
        raise UserError(f"the names of the columns are not UTF-8: {listed!a}", where, fix)
    what = f"no column {form.expected!r}" if form.expected else "no column holds a known question or instruction"
    known = {ours: [n for flat in FLAT.values() for n in flat.get(ours, ())] for ours in TEXTS}
    line = columns_line(guess_columns(names, {str(ours): theirs for ours, theirs in source.columns.items()}, known))
    raise UserError(f"{what}; the columns are: {listed}", where, f"say which is which: {line}")


@functools.lru_cache(maxsize=1024)
def _form_of_names(keys: tuple[str, ...], columns: tuple[tuple[str, str], ...]) -> Form:
    lower = {key.strip().lower(): key for key in reversed(keys)}
    lower.update({key: key for key in keys if key in lower})  # the exact name takes precedence over another case
    settings = dict(columns)
    for ours, theirs in settings.items():
        if theirs not in keys:
            return Form("columns", {}, ours, theirs)
    extra = {ours: lower[n] for ours, names in EXTRA.items() for n in names[::-1] if n in lower}
    extra.update({"task": settings["task"]} if "task" in settings else {})
    form = _recognised(lower, extra, has_settings=bool(settings))
    if not {"instruction", "output"} & set(settings):
        if "input" in settings and form.name not in LISTS:
            return replace(form, fields={**form.fields, "input": settings["input"]})
        used = {theirs for ours, theirs in form.fields.items() if ours != "history" or form.name not in LISTS}
        used |= {theirs.removesuffix(PRETOKENIZED) for theirs in used}
        return replace(form, unused=unused_content(keys, used, "input" in form.fields)) if form.complete else form
    fields = {**{k: v for k, v in form.fields.items() if v not in settings.values()}, **extra, **settings}
    for ours in ("instruction", "output"):
        if ours not in fields:
            return Form("columns", fields, ours, FLAT["alpaca"][ours][0])
    return Form("columns", fields)


def _recognised(lower: dict[str, str], extra: dict[str, str], has_settings: bool) -> Form:
    """The form of fields with these names (lower case: exact). has_settings: the source has a `columns:` line."""
    if "instruction" in lower and "instances" in lower:
        return Form("seeds", {**extra, **{name: lower[name] for name in ("instruction", "instances")}})
    if set(lower) >= TREE or is_message(lower):
        return Form("tree", {**extra, "prompt": lower.get("prompt", lower.get("text", ""))})
    if set(lower) >= OWN:
        return Form("conversation", {**extra, "conversation": lower["turns"]})
    conversations = [name for name in CONVERSATION if name in lower]
    preferred = next((lower[name] for name in CHOSEN if name in lower), "")
    chosen = {"chosen": preferred} if preferred else {}
    for name, names in FLAT.items():
        flat = {ours: lower[n] for ours, theirs in names.items() for n in theirs[::-1] if n in lower}
        if "instruction" not in flat or (conversations and (name != "alpaca" or "output" not in flat)):
            continue
        fields = {**extra, **flat}
        if name == "alpaca" and "response" in lower and {"context", "category"} & set(lower):
            name = "dolly"
        elif name == "alpaca" and "url" in lower:
            name = "koalpaca"
        if "output" not in flat:
            return Form(name, fields, "output", names["output"][0].removesuffix(PRETOKENIZED))
        is_alpaca = name in ("alpaca", "koalpaca") and all(ours == theirs for ours, theirs in fields.items())
        is_alpaca = is_alpaca and not {"system", "history"} & set(fields) and not has_settings
        return Form(name, fields, is_alpaca=is_alpaca)
    if conversations:
        return Form("conversation", {**extra, "conversation": lower[conversations[0]], **chosen})
    if chosen:
        prompt = {"prompt": lower["input"]} if "input" in lower else {}
        return Form("chosen", {**extra, **prompt, **chosen})
    return Form("text" if "text" in lower else "unknown")
