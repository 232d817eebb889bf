"""JSON files that others wrote: bounded in size and depth, each field of the kind that its reader expects.

Readers behind it (transformers, peft, our own code) may then take fields for what they should be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.terminal import quoted

LARGEST = 16_000_000  # bytes; the largest in use are tokenizer_config.json files of 1 to 2 MB
DEEPEST = 64  # brackets in brackets; model files have less than ten
LARGEST_ID = 1 << 31
LARGEST_COUNT = 1 << 24  # sizes, positions (10,485,760 in Llama 4 Scout), rows of an embedding

Kind = Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) < LARGEST)


def is_object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def is_texts(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def is_count(value: Any) -> bool:
    """One positive number, or one for each layer."""
    parts = value if isinstance(value, list) and value else [value]
    return value is None or all(is_whole(v) and 0 < v <= LARGEST_COUNT for v in parts)


def is_id(value: Any) -> bool:
    """A token id, several, or -1 for none."""
    parts = value if isinstance(value, list) else [value]
    return value is None or all(is_whole(v) and -1 <= v < LARGEST_ID for v in parts)


def is_token(value: Any) -> bool:
    """A special token: its text, or an object that holds it under `content`."""
    return is_text(value.get("content") if isinstance(value, dict) else value)


EXPECTED: dict[Kind, str] = {
    is_flag: "true or false", is_text: "a text", is_object: "an object", is_texts: "a list of texts",
    is_number: "a number", is_count: f"a whole number from 1 to {LARGEST_COUNT:,}", is_id: "a token id",
    is_token: "a token",
}  # fmt: skip


def is_deeper(value: Any, most: int) -> bool:
    """Whether brackets are nested more than `most` deep; without recursion."""
    level = [value]
    for _ in range(most):
        level = [v for part in level if isinstance(part, (dict, list)) for v in _inside(part)]
        if not level:
            return False
    return any(isinstance(part, (dict, list)) for part in level)


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


def parse(data: bytes) -> Any:
    """JSON of limited depth.

    Raises:
        ValueError: it is not.
    """
    try:
        value = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
    if is_deeper(value, DEEPEST):
        raise ValueError("brackets are nested too deeply")
    return value


def json_or_none(text: str | bytes) -> Any:
    """The value of a JSON text; None where it is not JSON, or nested too deeply for Python."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_object(path: Path, fields: Mapping[str, Kind], fix: str, largest: int = LARGEST) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        fields: what these keys may hold, when they are there; other keys hold anything. largest: in bytes.

    Raises:
        UserError: not a plain file, too large, not a JSON object, nested too deeply, or a field of another kind.
    """
    where = str(path.parent)
    if not path.is_file():
        raise UserError(f"{path.name} is not a plain file", where, fix)
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}", where, "change its rights") from None
    if len(data) > largest:
        raise UserError(f"{path.name} is larger than {largest:,} bytes", where, fix)
    try:
        value = parse(data)
    except ValueError as error:
        raise UserError(f"{path.name} is damaged: not a JSON object ({error})", where, fix) from None
    if not isinstance(value, dict):
        raise UserError(f"{path.name} is damaged: not a JSON object", where, fix)
    for key, kind in fields.items():
        if key in value and not kind(value[key]):
            what = f"{path.name} cannot be used: {key} is {quoted(json.dumps(value[key], ensure_ascii=False))[1:-1]}"
            raise UserError(f"{what}, not {EXPECTED[kind]}" if kind in EXPECTED else what, where, fix)
    return value
