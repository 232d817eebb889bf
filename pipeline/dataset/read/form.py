"""Rows of every known form become rows of instruction, input and output (and task, thread).

The form is told by the names of the fields, letter case aside; the first one that fits counts:

- alpaca: instruction, input or context, output or response or answer; koalpaca when it has a url too (v1.1), dolly when
  it has a response and a context or category.
- messages (OpenAI) and sharegpt: see `pipeline.dataset.read.conversation`.
- seeds: self-instruct's tasks. One row for each of `instances`; the task is `classification` where `is_classification`
  is true (every seed has a name of its own, so the name would be a task of one row).
- prompt/completion, question/answer (q/a, 질문/답변), problem/solution, inputs/targets (FLAN, P3).
- preferences (`chosen`, `rejected`), and texts that are messages: see `pipeline.dataset.read.preference`.
- trees of OpenAssistant: see `pipeline.dataset.read.tree`.

`task` or `category` is the task, `system` stands before the instruction, and `history`, pairs of question and answer,
makes a row a conversation. `columns` of a source comes before all that. Text without a question (`text`) is rejected,
and so is a row with content that its form does not use (`field-not-used`, see `pipeline.dataset.read.content`), unless
`columns` says which fields are the texts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config.schema import Source
from pipeline.dataset.read import advice
from pipeline.dataset.read.content import lost, unused
from pipeline.dataset.read.conversation import CONVERSATION, SPEAKERS, rows_of
from pipeline.dataset.read.guess import guess
from pipeline.dataset.read.preference import CHOSEN, notes, talk, undesired
from pipeline.dataset.read.raw import Raw
from pipeline.dataset.read.seeds import instances
from pipeline.dataset.read.tree import TREE, conversation, is_message
from pipeline.run.errors import UserError

TEXTS = ("instruction", "input", "output")
OUTPUTS = ("response", "output", "answer", *CHOSEN)
PRETOKENIZED = "_pretokenized"  # the text, beside a field that holds its ids
FLAT: dict[str, dict[str, tuple[str, ...]]] = {  # form: our field: what it is called there, the first that is there
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
# Forms whose rows come out of a list, which `columns` cannot name, and what of it can hold further content.
LISTS = {"seeds": "the inputs", **dict.fromkeys(("conversation", "chosen", "tree"), "a message")}
EXTRA = {
    "task": ("task", "category"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "thread": ("thread",),
}


@dataclass(frozen=True)
class Plan:
    """How rows with certain field names are read: `fields` maps ours to theirs, `missing` is ours that is not there
    under the name `wanted`; `as_is` rows have our names already; `unused` are fields with content that nobody reads."""

    form: str
    fields: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    wanted: str = ""
    as_is: bool = False
    unused: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.form not in ("text", "unknown") and not self.missing


def form_of(row: Any, source: Source | None = None) -> str:
    """The form of a row: a name from the list above, `text`, `columns` (named in the config) or `unknown`."""
    if not isinstance(row, dict):
        return "unknown"
    plan = _plan_of(row, source.columns if source else {})
    if plan.form != "conversation":
        return "preference" if plan.form == "chosen" else plan.form
    messages = row[plan.fields["conversation"]]
    first = messages[0] if isinstance(messages, list) and messages else messages
    return "sharegpt" if isinstance(first, dict) and ("from" in first or "value" in first) else "messages"


def notes_of(row: Any, source: Source) -> list[str]:
    """What is to be said of answers and reasoning in a row that are not learnt."""
    return list(notes(row, _plan_of(row, source.columns).fields.values())) if isinstance(row, dict) else []


def is_row(value: dict[str, Any]) -> bool:
    """Whether an object is a row of a known form with all that the form needs."""
    return _plan_of(value, {}).complete


def rows(raw: Raw, source: Source) -> list[Raw]:
    """One row as rows in Alpaca form; at least one. A row that is not understood stays as it is, for `row.check`."""
    row = raw.value
    if raw.error or not isinstance(row, dict):
        return [raw]
    plan = _plan_of(row, source.columns)
    if _spared(plan, source):
        raw = Raw({**row, plan.wanted: ""}, raw.place)
        row = raw.value
        plan = _plan_of(row, source.columns)
    if plan.complete and (name := undesired(row, plan.fields.values(), row.get(plan.fields.get("output", "")))):
        return [raw.refused("undesired", f"{name[:40]!r} is false: the answer is marked as a bad one")]
    made = [raw] if plan.as_is else _made(raw, row, plan, source)
    if plan.unused and (names := lost(row, plan.unused, made)):
        if plan.form in LISTS:
            return [raw.refused("field-not-used", advice.for_list(names, LISTS[plan.form]))]
        texts = {ours: plan.fields[ours] for ours in TEXTS if ours in plan.fields}
        return [raw.refused("field-not-used", advice.for_columns(row, names, texts))]
    return made


def _spared(plan: Plan, source: Source) -> bool:
    """Whether all that a row lacks is a field that this source need not have."""
    return bool(plan.missing) and plan.missing not in source.needs and plan.wanted not in source.columns.values()


def _made(raw: Raw, row: dict[str, Any], plan: Plan, source: Source) -> list[Raw]:
    if plan.form == "text":
        return [raw.refused("text-only", "plain text (field 'text') without question and answer")]
    if plan.form == "unknown":
        return [raw]
    if plan.missing:
        there = ", ".join(repr(key[:40]) for key in list(row)[:6]) or "none"
        reason = f"no field {plan.wanted!r} (form: {plan.form}; fields: {there})"
        return [raw.refused(f"{plan.missing}-missing", reason)]
    fields = plan.fields
    system = row[fields["system"]] if "system" in fields else None
    if system is not None and not isinstance(system, str):
        return [raw.refused("system-not-text", f"the field {fields['system']!r} is not text")]
    system = system if system and system.strip() else ""
    task = _task(row.get(fields["task"]), "task" in source.columns) if "task" in fields else ""
    if plan.form == "seeds":
        task = task or ("classification" if row.get("is_classification") is True else "")
        instruction = _under(system, row[fields["instruction"]])
        return instances(raw, row[fields["instances"]], instruction, task, "output" in source.needs)
    if plan.form == "chosen" and talk(row.get(fields.get("prompt", "")), row[fields["chosen"]]) is None:
        return [raw.refused("instruction-missing", f"no question beside {fields['chosen']!r} (form: preference)")]
    if plan.form in LISTS:
        return rows_of(raw, *_messages(row, plan), system, task)
    flat: dict[str, Any] = {ours: row[fields[ours]] for ours in TEXTS if ours in fields}
    if "history" in fields and (history := row[fields["history"]]):
        return _with_history(raw, flat, history, system, task)
    if found := talk(flat["instruction"], flat["output"]):
        if flat.get("input"):
            return [raw.refused("field-not-used", advice.would_be_lost([fields["input"]]) + "; put it into a message")]
        return rows_of(raw, *found, system, task)
    flat["instruction"] = _under(system, flat["instruction"])
    return [Raw({**flat, "task": task, "thread": row[fields["thread"]] if "thread" in fields else ""}, raw.place)]


def _messages(row: dict[str, Any], plan: Plan) -> tuple[Any, int]:
    """The messages of a row that is a conversation, and how many of them are only its prompt."""
    fields = plan.fields
    if plan.form == "tree":
        return conversation(row[fields["prompt"]]), 0
    if plan.form == "chosen":
        return talk(row.get(fields.get("prompt", "")), row[fields["chosen"]]) or (None, 0)
    messages = row[fields["conversation"]]
    last = messages[-1] if isinstance(messages, list) and messages else None
    if "chosen" not in fields or not isinstance(last, dict) or _is_answer(last):
        return messages, 0
    return talk(messages, row[fields["chosen"]]) or (messages, 0)


def _is_answer(message: dict[str, Any]) -> bool:
    role = message.get("role") or message.get("from")
    return isinstance(role, str) and SPEAKERS.get(role.strip().lower()) == "assistant"


def _under(system: str, instruction: Any) -> Any:
    return f"{system}\n\n{instruction}" if system and isinstance(instruction, str) else instruction


def require(names: Sequence[str], source: Source, where: str) -> None:
    """Stops when a table with these columns can give no row.

    Raises:
        UserError: with the columns that there are and the `columns:` line to write.
    """
    plan = _plan(tuple(names), tuple(source.columns.items()))
    if plan.complete or _spared(plan, source):
        return
    listed = ", ".join(repr(name[:40]) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    if any("\udc80" <= sign <= "\udcff" for name in names for sign in name):
        fix = "save the file as UTF-8; Korean files are often CP949: iconv -f CP949 -t UTF-8 old > new"
        raise UserError(f"the names of the columns are not UTF-8: {listed!a}", where, fix)
    what = f"no column {plan.wanted!r}" if plan.wanted else "no column holds a known question or instruction"
    known = {ours: [n for form in FLAT.values() for n in form.get(ours, ())] for ours in TEXTS}
    line = advice.line(guess(names, {str(ours): theirs for ours, theirs in source.columns.items()}, known))
    raise UserError(f"{what}; the columns are: {listed}", where, f"say which is which: {line}")


def _plan_of(row: dict[str, Any], columns: dict[Any, str]) -> Plan:
    """Null counts as a field that is not there where another form is complete without it, or where another field may
    stand for it: tables know no other way."""
    named = tuple(columns.items())
    plan = _plan(tuple(row), named)
    if plan.missing or any(row[theirs] is None for theirs in plan.fields.values()):
        other = _plan(tuple(key for key, value in row.items() if value is not None), named)
        if other.complete and (other.form != plan.form or plan.unused):
            return other
    return plan


@functools.lru_cache(maxsize=1024)
def _plan(keys: tuple[str, ...], columns: tuple[tuple[str, str], ...]) -> Plan:
    folded = {key.strip().lower(): key for key in reversed(keys)}
    folded.update({key: key for key in keys if key in folded})  # a name as it is wins over one in other letters
    named = dict(columns)
    for ours, theirs in named.items():
        if theirs not in keys:
            return Plan("columns", {}, ours, theirs)
    extra = {ours: folded[n] for ours, names in EXTRA.items() for n in names[::-1] if n in folded}
    extra.update({"task": named["task"]} if "task" in named else {})
    plan = _recognised(folded, extra, set(named))
    if not {"instruction", "output"} & set(named):
        if "input" in named and plan.form not in LISTS:
            return replace(plan, fields={**plan.fields, "input": named["input"]})
        used = {theirs for ours, theirs in plan.fields.items() if ours != "history" or plan.form not in LISTS}
        used |= {theirs.removesuffix(PRETOKENIZED) for theirs in used}
        return replace(plan, unused=unused(keys, used, "input" in plan.fields)) if plan.complete else plan
    fields = {**{k: v for k, v in plan.fields.items() if v not in named.values()}, **extra, **named}
    for ours in ("instruction", "output"):
        if ours not in fields:
            return Plan("columns", fields, ours, FLAT["alpaca"][ours][0])
    return Plan("columns", fields)


def _recognised(folded: dict[str, str], extra: dict[str, str], named: set[str]) -> Plan:
    """The form of fields with these names (lower case: as it is)."""
    if "instruction" in folded and "instances" in folded:
        return Plan("seeds", {**extra, **{name: folded[name] for name in ("instruction", "instances")}})
    if set(folded) >= TREE or is_message(folded):
        return Plan("tree", {**extra, "prompt": folded.get("prompt", folded.get("text", ""))})
    told = [name for name in CONVERSATION if name in folded]
    preferred = next((folded[name] for name in CHOSEN if name in folded), "")
    chosen = {"chosen": preferred} if preferred else {}
    for form, ours in FLAT.items():
        found = {k: folded[n] for k, names in ours.items() for n in names[::-1] if n in folded}
        if "instruction" not in found or (told and (form != "alpaca" or "output" not in found)):
            continue
        fields = {**extra, **found}
        if form == "alpaca" and "response" in folded and {"context", "category"} & set(folded):
            form = "dolly"
        elif form == "alpaca" and "url" in folded:
            form = "koalpaca"
        if "output" not in found:
            return Plan(form, fields, "output", ours["output"][0].removesuffix(PRETOKENIZED))
        as_is = form in ("alpaca", "koalpaca") and all(k == v for k, v in fields.items())
        return Plan(form, fields, as_is=as_is and not {"system", "history"} & set(fields) and not named)
    if told:
        return Plan("conversation", {**extra, "conversation": folded[told[0]], **chosen})
    if chosen:
        prompt = {"prompt": folded["input"]} if "input" in folded else {}
        return Plan("chosen", {**extra, **prompt, **chosen})
    return Plan("text" if "text" in folded else "unknown")


def _task(value: Any, named: bool) -> str:
    """A task is text; a column that the config names as the task may hold whole numbers."""
    if named and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _with_history(raw: Raw, flat: dict[str, Any], history: Any, system: str, task: str) -> list[Raw]:
    """Earlier rounds of the same talk, as LLaMA-Factory writes them: [[question, answer], ...]."""
    pairs = history if isinstance(history, list) else [history]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return [raw.refused("not-a-conversation", "history is not a list of pairs of question and answer")]
    asked = [text for text in (flat["instruction"], flat.get("input")) if text]
    if not all(isinstance(text, str) for text in asked):
        return [Raw(flat, raw.place)]
    pairs = [*pairs, ("\n\n".join(asked), flat["output"])]
    messages = [{"role": r, "content": t} for pair in pairs for r, t in zip(("user", "assistant"), pair, strict=True)]
    return rows_of(raw, messages, 0, system, task)
