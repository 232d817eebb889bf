"""Rows of every form (`forms.py`) become rows in Alpaca form: instruction, input, output, and task and thread.

row of the source
  -> forms.form_of            which form, which field is which
  -> here                     seeds, flat forms (alpaca, question/answer, ...), rows with a history
     or conversation.py       messages, sharegpt; also what tree.py and preference.py turn into messages
     or whole.py              the same for chat templates: one row with all turns; a system message stays apart
  -> unused_fields            a row whose content would be lost is rejected (`field-not-used`)
  -> row.check                types are checked: `Example` or `Rejected`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.read import preference
from pipeline.dataset.read.chat_text import form_of_text, messages_of_text
from pipeline.dataset.read.conversation import SPEAKERS, conversation_rows
from pipeline.dataset.read.forms import LISTS, TEXTS, Form, form_of, lacks_optional_field_only
from pipeline.dataset.read.row import RawRow, Whole
from pipeline.dataset.read.tool_calls import BadTools, tools_of
from pipeline.dataset.read.tree import best_path
from pipeline.dataset.read.unused_fields import (
    advice_for_columns,
    advice_for_list,
    lost_fields,
    unused_content,
    would_be_lost,
)
from pipeline.dataset.read.whole import whole_conversation

Rows = Callable[..., list[RawRow]]  # `conversation_rows` or `whole_conversation`


def to_alpaca(raw: RawRow, source: Source, whole: bool = False) -> list[RawRow]:
    """One row as rows in Alpaca form; at least one. A row of unknown form stays as it is, for `row.check`.

    whole: conversations stay whole, and system messages apart from instructions, for a chat template.
    """
    row = raw.value
    if raw.error or not isinstance(row, dict):
        return [raw]
    if whole and form_of_text(row):
        return whole_conversation(raw, messages_of_text(row), needs_answer="output" in source.needs)
    form = form_of(row, source.columns)
    if lacks_optional_field_only(form, source):
        raw = RawRow({**row, form.expected: ""}, raw.place)
        row = raw.value
        form = form_of(row, source.columns)
    if form.complete:
        output = row.get(form.fields.get("output", ""))
        if name := preference.undesired(row, form.fields.values(), output):
            return [raw.rejected("undesired", f"{name[:40]!r} is false: the answer is marked as a bad one")]
    results = [raw] if form.is_alpaca else _converted(raw, row, form, source, whole)
    if form.unused and (names := lost_fields(row, form.unused, results)):
        if form.name in LISTS:
            return [raw.rejected("field-not-used", advice_for_list(names, LISTS[form.name]))]
        texts = {ours: form.fields[ours] for ours in TEXTS if ours in form.fields}
        return [raw.rejected("field-not-used", advice_for_columns(row, names, texts))]
    return results


def notes_of(row: Any, source: Source) -> list[str]:
    """Notes on answers and reasoning in a row that are not learnt."""
    if not isinstance(row, dict):
        return []
    return list(preference.notes(row, form_of(row, source.columns).fields.values()))


def _converted(raw: RawRow, row: dict[str, Any], form: Form, source: Source, whole: bool) -> list[RawRow]:
    if form.name == "text":
        return [raw.rejected("text-only", "plain text (field 'text') without question and answer")]
    if form.name == "unknown":
        return [raw]
    if form.missing:
        names = ", ".join(repr(key[:40]) for key in list(row)[:6]) or "none"
        reason = f"no field {form.expected!r} (form: {form.name}; fields: {names})"
        return [raw.rejected(f"{form.missing}-missing", reason)]
    fields = form.fields
    system = row[fields["system"]] if "system" in fields else None
    if system is not None and not isinstance(system, str):
        return [raw.rejected("system-not-text", f"the field {fields['system']!r} is not text")]
    system = system if system and system.strip() else ""
    task = _task(row.get(fields["task"]), "task" in source.columns) if "task" in fields else ""
    if form.name == "seeds":  # every seed has a name of its own, so the name would be a task of one row
        task = task or ("classification" if row.get("is_classification") is True else "")
        instruction = row[fields["instruction"]]
        more, instruction = (system, instruction) if whole else ("", _with_system(system, instruction))
        instances = _instances(raw, row[fields["instances"]], instruction, task, "output" in source.needs)
        return [_apart(one, more) for one in instances]
    cut: Rows = conversation_rows
    if whole:
        try:
            cut = partial(whole_conversation, tools=tools_of(row), needs_answer="output" in source.needs)
        except BadTools as error:
            return [raw.rejected("tools", str(error))]
    prompt, chosen = row.get(fields.get("prompt", "")), row.get(fields.get("chosen", ""))
    if form.name == "chosen" and preference.to_messages(prompt, chosen) is None:
        return [raw.rejected("instruction-missing", f"no question beside {fields['chosen']!r} (form: preference)")]
    if form.name in LISTS:
        return cut(raw, *_messages(row, form), system, task)
    flat: dict[str, Any] = {ours: row[fields[ours]] for ours in TEXTS if ours in fields}
    if "history" in fields and (history := row[fields["history"]]):
        return _with_history(raw, flat, history, partial(cut, system=system, task=task))
    if messages := preference.to_messages(flat["instruction"], flat["output"]):
        if flat.get("input"):
            return [raw.rejected("field-not-used", would_be_lost([fields["input"]]) + "; put it into a message")]
        return cut(raw, *messages, system, task)
    more, flat["instruction"] = (
        (system, flat["instruction"]) if whole else ("", _with_system(system, flat["instruction"]))
    )
    thread = row[fields["thread"]] if "thread" in fields else ""
    return [_apart(RawRow({**flat, "task": task, "thread": thread}, raw.place), more)]


def _apart(raw: RawRow, system: str) -> RawRow:
    """The row with its system message as a field of its own, if it has one."""
    return raw if raw.error or not system else replace(raw, value=Whole({**raw.value, "system": system}))


def _instances(raw: RawRow, instances: Any, instruction: Any, task: str, needs_output: bool) -> list[RawRow]:
    """One row for each instance of a seed task, at least one; a faulty instance is rejected alone."""
    if not isinstance(instances, list) or not instances:
        return [raw.rejected("no-instances", "its list of instances is empty, or is no list (form: seeds)")]
    rows = []
    for k, instance in enumerate(instances, 1):
        place = f"{raw.place}, instance {k}" if len(instances) > 1 else raw.place
        if isinstance(instance, dict) and not needs_output:
            instance = {"output": "", **instance}
        if not isinstance(instance, dict) or "output" not in instance:
            rows.append(raw.rejected("output-missing", "the instance has no field 'output' (form: seeds)", place))
            continue
        texts = {"instruction": instruction, "input": instance.get("input"), "output": instance["output"]}
        row = RawRow({**texts, "task": task}, place)
        names = lost_fields(instance, unused_content(tuple(instance), ("input", "output"), has_input=True), [row])
        rows.append(raw.rejected("field-not-used", advice_for_list(names, "the input"), place) if names else row)
    return rows


def _messages(row: dict[str, Any], form: Form) -> tuple[Any, int]:
    """The messages of a row that is a conversation, and how many of them belong to the prompt."""
    fields = form.fields
    if form.name == "tree":
        return best_path(row[fields["prompt"]]), 0
    if form.name == "chosen":
        return preference.to_messages(row.get(fields.get("prompt", "")), row[fields["chosen"]]) or (None, 0)
    messages = row[fields["conversation"]]
    last = messages[-1] if isinstance(messages, list) and messages else None
    if "chosen" not in fields or not isinstance(last, dict) or _is_answer(last):
        return messages, 0
    return preference.to_messages(messages, row[fields["chosen"]]) or (messages, 0)


def _is_answer(message: dict[str, Any]) -> bool:
    role = message.get("role") or message.get("from")
    return isinstance(role, str) and SPEAKERS.get(role.strip().lower()) == "assistant"


def _with_system(system: str, instruction: Any) -> Any:
    return f"{system}\n\n{instruction}" if system and isinstance(instruction, str) else instruction


def _task(value: Any, is_set: bool) -> str:
    """A task is text; a column that the config names as the task may hold integers."""
    if is_set and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _with_history(raw: RawRow, flat: dict[str, Any], history: Any, cut: Rows) -> list[RawRow]:
    """A row with earlier turns as LLaMA-Factory writes them: [[question, answer], ...]."""
    pairs = history if isinstance(history, list) else [history]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return [raw.rejected("not-a-conversation", "history is not a list of pairs of question and answer")]
    questions = [text for text in (flat["instruction"], flat.get("input")) if text]
    if not all(isinstance(text, str) for text in questions):
        return [RawRow(flat, raw.place)]
    pairs = [*pairs, ("\n\n".join(questions), flat["output"])]
    messages = [{"role": r, "content": t} for pair in pairs for r, t in zip(("user", "assistant"), pair, strict=True)]
    return cut(raw, messages)
