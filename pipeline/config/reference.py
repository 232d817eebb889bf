"""What the schema says about each key: type, default, meaning, and when to change it. `docs/config.md` and the command
line's help are made from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.methods import METHODS, check_name
from pipeline.config.schema import Config
from pipeline.config.values import (
    MOST,
    adapter_name,
    count_or_share,
    currency_code,
    language_code,
    plain_url,
    tokens_or_money,
    variable_name,
)

# What a check of our own accepts, in place of the type that it is written on.
CHECKED: dict[Callable[..., object], str] = {
    check_name: f"one of {', '.join(METHODS)}",
    adapter_name: "a name in the adapter store",
    count_or_share: "a share below 1, or a whole number of rows",
    plain_url: "an http or https address",
    language_code: "a language as two or three letters",
    currency_code: "a currency as three letters",
    tokens_or_money: "tokens or money, such as 200000 tokens or 5 USD",
    variable_name: "the name of an environment variable",
}
NAMES = "letters, digits, `.`, `_`, `-`"
PLAIN = re.compile(r"[^\W\d][\w./-]*")  # text that needs no quotes in YAML, but for three words
MANY = 6  # names of fields that a type lists; longer lists stand in the table of the fields themselves
SMALL = 1e-6  # a lower bound beneath it only keeps 0 out


@dataclass(frozen=True)
class Entry:
    """One key of the config.

    key: dotted, with `N` for the number of a list's item.
    type: in words. default: as YAML; None = required.
    what, when: the description, whose last sentence says when to change the key.
    """

    key: str
    type: str
    default: str | None
    what: str
    when: str

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return sentences(self.what)[0]


@dataclass(frozen=True)
class Table:
    """A section of the config: where it stands (`train`, `data.sources.N`), what it is for, and its own keys."""

    place: str
    about: str
    entries: tuple[Entry, ...]


def tables() -> list[Table]:
    """Every section in the order of the schema, a nested one after the one that holds it."""
    return list(_tables(Config, ""))


def entries(place: str) -> tuple[Entry, ...]:
    """The keys of a section and of those inside it, or the key of that name.

    Raises:
        KeyError: there is no such section or key.
    """
    parts = (place, f"{place}.")
    chosen = tuple(e for t in tables() for e in t.entries if e.key == parts[0] or e.key.startswith(parts[1]))
    if not chosen:
        raise KeyError(place)
    return chosen


def sentences(text: str) -> list[str]:
    """A description's sentences, each with its full stop."""
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(text.split()))


def as_yaml(value: Any) -> str:
    """A value on one line, as it may stand in a config."""
    if isinstance(value, str):
        is_plain = PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null")
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _tables(section: type[BaseModel], place: str) -> Iterator[Table]:
    own, inner = [], []
    for name, field in section.model_fields.items():
        key = f"{place}.{name}".lstrip(".")
        nested = next(_sections(field.annotation), None)
        if nested is None or nested is not field.annotation:
            own.append(_entry(key, field))
        if nested is not None:
            inner.append((nested, f"{key}.N" if get_origin(field.annotation) is tuple else key))
    about = " ".join((section.__dict__.get("__doc__") or "").split())
    if place:
        yield Table(place, about, tuple(own))
    elif own:
        yield Table("", about, tuple(own))
    for nested, key in inner:
        yield from _tables(nested, key)


def _entry(key: str, field: FieldInfo) -> Entry:
    *what, when = sentences(field.description or "")
    default = None
    if not field.is_required():
        value = field.get_default(call_default_factory=True)
        default = as_yaml(list(value) if isinstance(value, tuple) else value)
    return Entry(key, _type(field.annotation, field.metadata), default, " ".join(what), when)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _type(annotation: Any, metadata: list[Any]) -> str:
    """A type in words, its bounds included."""
    for check in metadata:
        if text := CHECKED.get(getattr(check, "func", None)):  # type: ignore[arg-type]
            return text
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0], [inner for part in parts[1:] for inner in getattr(part, "metadata", None) or [part]])
    if origin is Literal:
        return _either([as_yaml(part) for part in parts])
    if origin is tuple:
        return f"list of {_plural(parts[0])}"
    if origin is dict:
        return f"table of {_plural(parts[0], 'names')} to {_plural(parts[1])}"
    if NoneType in parts:
        (inner,) = (part for part in parts if part is not NoneType)
        return f"{_type(inner, metadata)}, or null"
    bounds = {type(m).__name__: m for m in metadata}
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return ("whole number" if annotation is int else "number") + _range(bounds)
    if annotation is str:
        pattern = any(getattr(m, "pattern", None) for m in metadata)
        return f"text of {NAMES}" if pattern else "text" + (", not empty" if "MinLen" in bounds else "")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"table with {', '.join(annotation.model_fields)}"
    raise TypeError(f"no words for the type {annotation!r}")


def _plural(annotation: Any, text: str = "texts") -> str:
    if annotation is str:
        return text
    if annotation is Any:
        return "values"
    if get_origin(annotation) is tuple:
        return f"lists of {_plural(get_args(annotation)[0])}"
    if nested := next(_sections(annotation), None):
        return f"tables with {', '.join(nested.model_fields) if len(nested.model_fields) <= MANY else 'keys below'}"
    return _type(annotation, [])


def _range(bounds: dict[str, Any]) -> str:
    """Such as `, 1 to 65,536`. Upper bounds that only keep numbers computable are left out."""
    low = bounds["Ge"].ge if "Ge" in bounds else None
    high = bounds["Le"].le if "Le" in bounds and bounds["Le"].le < MOST else None
    below = bounds["Lt"].lt if "Lt" in bounds and bounds["Lt"].lt < MOST else None
    if "Gt" in bounds or (low is not None and 0 < low < SMALL):
        low, least = None, "above 0"
    else:
        least = "" if low is None else f"at least {low:,}"
    if low is not None and high is not None:
        return f", {low:,} to {high:,}"
    most = f"at most {high:,}" if high is not None else f"below {below:,}" if below is not None else ""
    return "".join(f", {words}" for words in (least, most) if words)


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
