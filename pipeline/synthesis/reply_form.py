"""Parses replies: JSON by a schema, or labelled text. Strict; what is tolerated cannot change a row:

a block of thoughts in front (<think>...</think>), a code fence around JSON, words outside of that fence,
null for an empty text, a number for its digits, a reply that was cut off inside its last record

{"tasks": [{"instruction": "...", "input": "", "output": "..."}, ...]}

1. Instruction: ...
Input: <noinput>
Output: ...
2. Instruction: ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset.read.row import SURROGATE, kind_of_value

THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
FENCE = re.compile(r"^```[\w-]*[ \t]*\n(.*?)\n?^```[ \t]*$", re.DOTALL | re.MULTILINE)
NO_INPUT = re.compile(r"<\s*(?:no[ _-]?input|입력 ?없음)\s*>", re.IGNORECASE)
YES, NO = ("yes", "true", "예", "네"), ("no", "false", "", "아니요", "아니오")


@dataclass(frozen=True)
class Field:
    """A field of a record.

    Attributes:
        name: in JSON. labels: before its value in text.
        kind: a text, a list of texts (JSON only), or a flag.
        may_lack: whether a record without it is whole; it is then empty, or false.
    """

    name: str
    labels: tuple[str, ...] = ()
    kind: type = str
    may_lack: bool = False


@dataclass
class Records:
    """What a reply holds.

    Attributes:
        whole: records with all fields. faulty: the others, as (problem, text).
        problem: why there is no whole record; empty where there is one.
        is_cut: whether the reply ended inside a record, which was dropped.
    """

    whole: list[dict[str, Any]] = field(default_factory=list)
    faulty: list[tuple[str, str]] = field(default_factory=list)
    problem: str = ""
    is_cut: bool = False

    @property
    def has_records(self) -> bool:
        return bool(self.whole or self.faulty or self.is_cut)


def records(text: str, name: str, fields: Sequence[Field], finish: str = "stop") -> Records:
    """The records of a reply: of the list `name` of a JSON object (or a bare list), or of labelled text.

    Args:
        fields: of a record; in text each record begins with the first of them.
        finish: why the reply ended; `length`: its last record is incomplete.
    """
    text = _unwrapped(without_thoughts(text))
    labelled = _labelled(text, fields, finish)
    unfenced = _json_text(text)
    if not unfenced or (labelled.has_records and not text.startswith(("{", "["))):
        return labelled
    values, problem, is_cut = _list(unfenced, name, finish)
    found = Records(is_cut=is_cut)
    for value in values:
        record = _record(value, fields)
        if isinstance(record, str):
            found.faulty.append((record, json.dumps(value, ensure_ascii=False)))
        else:
            found.whole.append(record)
    if not found.whole:
        found.problem = problem or (found.faulty[0][0] if found.faulty else f"the list {name!r} is empty")
    return found


def record(text: str, fields: Sequence[Field], finish: str = "stop") -> dict[str, Any] | str:
    """The only record of a reply, a JSON object or labelled text; or what is wrong with it."""
    text = _unwrapped(without_thoughts(text))
    if finish == "length":
        return "the reply was cut off"
    found = _labelled(text, fields, finish)
    unfenced = _json_text(text)
    if unfenced and (not found.has_records or text.startswith(("{", "["))):
        value, problem, _ = _loaded(unfenced)
        return problem or _record(value, fields)
    if len(found.whole) > 1:
        return f"{len(found.whole)} records instead of one"
    return found.whole[0] if found.whole else found.problem


def without_thoughts(text: str) -> str:
    """A reply without the thoughts that some models write in front of it."""
    match = THOUGHTS.match(text)
    return (text[match.end() :] if match else text).strip()


def _unwrapped(text: str) -> str:
    """A reply without the code fence around all of it."""
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    is_wrapped = len(fences) % 2 == 0 and fences[:1] == [0] and fences[-1:] == [len(lines) - 1]
    # Of several fences the outer two are a pair if the second one opens a block, so that its line names a language.
    if is_wrapped and (len(fences) == 2 or lines[fences[1]].rstrip() != "```"):
        return "\n".join(lines[1:-1]).strip()
    return text


def _json_text(text: str) -> str:
    """The JSON of a reply: all of it, or its only fenced block; empty where it is no JSON."""
    if text.startswith(("{", "[")):
        return text
    blocks = [block.strip() for block in FENCE.findall(text)]
    if len(blocks) == 1 and blocks[0].startswith(("{", "[")):
        return blocks[0]
    if text.startswith("```") and not blocks:  # a fence that the end of the reply cut off
        rest = text.partition("\n")[2].strip()
        return rest if rest.startswith(("{", "[")) else ""
    return ""


def _loaded(text: str) -> tuple[Any, str, bool]:
    """The value of a JSON text, the problem where there is none, and whether that is a missing end."""
    try:
        return json.loads(text), "", False
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        return None, problem, error.pos >= len(text) or not text.endswith(("}", "]"))
    except (ValueError, RecursionError):
        return None, "not JSON that can be read: nested too deeply, or a number too long", False


def _list(text: str, name: str, finish: str) -> tuple[list[Any], str, bool]:
    """Values of the list, the problem where there is none, and whether the end is missing."""
    value, problem, is_cut = _loaded(text)
    if not problem:
        values = value.get(name) if isinstance(value, dict) else value
        if isinstance(values, list):
            return values, "", False
        return [], f"no list {name!r} in the JSON", False
    is_cut = is_cut or finish == "length"
    values = list(_whole_values(text, name)) if is_cut else []
    return values, "the reply was cut off before its first record ended" if is_cut else problem, is_cut


def _whole_values(text: str, name: str) -> Iterator[Any]:
    """Values of a list whose end is missing, without the last if that is incomplete."""
    start = re.match(r"\[" if text.startswith("[") else rf'\{{\s*"{re.escape(name)}"\s*:\s*\[', text)
    at, decoder = start.end() if start else len(text), json.JSONDecoder()
    while match := re.compile(r"[\s,]*(?=\{)").match(text, at):
        try:
            value, at = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            return
        yield value


def _record(value: Any, fields: Sequence[Field]) -> dict[str, Any] | str:
    """The fields of a JSON object, or what is wrong with it."""
    if not isinstance(value, dict):
        return f"a record is an object, this is {kind_of_value(value)}"
    found: dict[str, Any] = {}
    for one in fields:
        if one.name not in value and not one.may_lack:
            return f"a record has no field {one.name!r}"
        got = _value(value.get(one.name), one)
        if got is None:
            return f"the field {one.name!r} is {kind_of_value(value[one.name])}"
        found[one.name] = got
    if SURROGATE.search("".join(map(str, found.values()))):
        return "a field holds half of a pair of characters (\\ud800)"
    return found


def _value(value: Any, one: Field) -> Any:
    """A JSON value as the field's kind; None where it is of another kind."""
    if one.kind is bool:
        return value if isinstance(value, bool) else False if value is None else _flag(value)
    if one.kind is list:
        texts = [_value(item, Field("")) for item in value] if isinstance(value, list) else [None]
        return texts if None not in texts else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return json.dumps(value)
    text = "" if value is None else value
    return _text(text) if isinstance(text, str) else None


def _flag(value: Any) -> bool | None:
    word = value.strip().rstrip(".").lower() if isinstance(value, str) else None
    return True if word in YES else False if word in NO else None


def _text(value: str) -> str:
    value = value.strip()
    return "" if NO_INPUT.fullmatch(value) else value


def _labelled(text: str, fields: Sequence[Field], finish: str) -> Records:
    """Records of text with a label before each field. A label that the record has already is part of its text."""
    names = {label.lower(): one for one in fields for label in one.labels}
    labels = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    head = re.compile(rf"^[ \t#]*(?:\*\*)?(?:(\d{{1,3}})[.)][ \t]*)?(?:\*\*)?({labels})(?:\*\*)?[ \t]*[:：](?:\*\*)?",
                      re.IGNORECASE | re.MULTILINE)  # fmt: skip
    starts: list[list[tuple[Field, int, int]]] = []  # of each record: field, begin of its label and of its value
    is_numbered = False
    for match in head.finditer(text):
        one = names[match[2].lower()]
        is_first = one is fields[0]
        is_numbered = is_numbered or bool(is_first and match[1])
        seen = {other.name for other, _, _ in starts[-1]} if starts else set()
        if is_first and (match[1] or not is_numbered or not starts):
            starts.append([(one, match.start(), match.end())])
        elif starts and not is_first and one.name not in seen and not match[1]:
            starts[-1].append((one, match.start(), match.end()))
    found = Records(is_cut=finish == "length" and bool(starts))
    ends = [*(begin[0][1] for begin in starts[1:]), len(text)][: len(starts)]
    for parts, end in list(zip(starts, ends, strict=True))[: len(starts) - found.is_cut]:
        bounds = [begin for _, begin, _ in parts[1:]] + [end]
        value = {one.name: text[at:stop] for (one, _, at), stop in zip(parts, bounds, strict=True)}
        record = _record(value, fields)
        if isinstance(record, str):
            found.faulty.append((record, text[parts[0][1] : end].strip()))
        else:
            found.whole.append(record)
    if not found.whole:
        cut = "the reply was cut off before its first record ended"
        none = "neither JSON nor text with the labels " + ", ".join(one.labels[0] for one in fields if one.labels)
        found.problem = cut if found.is_cut else found.faulty[0][0] if found.faulty else none
    return found
