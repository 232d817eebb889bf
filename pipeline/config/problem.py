"""One line for each problem in a config: place, key, what is wrong, and the nearest key that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel

from pipeline.config.method_rules import Key
from pipeline.config.schema import Config
from pipeline.config.values import SYNONYMS
from pipeline.run.nearest import closest

NUMBER = re.compile(r"^[0-9.]+([eE][-+]?[0-9]+)?$")
# By pydantic's type of error.
MESSAGES = {
    "greater_than_equal": "must be at least {ge:,}",
    "greater_than": "must be above {gt:,}",
    "less_than_equal": "must be at most {le:,}",
    "less_than": "must be below {lt:,}",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "dict_type": "expected a table, such as {{a: 1}}",
    "string_pattern_mismatch": "expected letters, digits, '.', '_' or '-', beginning with a letter or digit",
    "string_too_short": "must not be empty",
    "string_type": "expected text; put it in quotes",
}


@dataclass
class Places:
    """Where keys were given: `FILE:LINE`, or `ARGS` (`command line` behind `suri`) for overrides."""

    path: str
    of_keys: dict[Key, str] = field(default_factory=dict)

    def of(self, key: Key) -> str:
        """The place of a key, or of the nearest table around it that was given."""
        around = (key[:n] for n in range(len(key), -1, -1))
        return next((self.of_keys[outer] for outer in around if outer in self.of_keys), self.path)


def problem_of(item: dict[str, Any], places: Places) -> str:
    """The line for one pydantic error."""
    kind, given = item["type"], item["input"]
    key: Key = tuple(part for part in item["loc"] if part != "[key]")
    if kind == "invalid_key":
        key = (*key[:-1], str(given))
        return f"{places.of(key)}: unknown key {given}{_suggest(key)}"
    at = places.of(key)
    if kind == "extra_forbidden":
        return f"{at}: unknown key {dotted(key)}{_suggest(key)}"
    if kind == "missing":
        return f"{at}: {dotted(key)} is missing"
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if kind == "model_type":
        message = f"expected a table of keys ({', '.join(_fields(key))})"
    if kind == "tuple_type":
        message = f"expected a list, such as [{_item(key, given)}]"
    if kind in MESSAGES:
        message = MESSAGES[kind].format(**item.get("ctx", {}))
    if kind in ("int_parsing", "float_parsing"):
        message += _number_hint(str(given))
    # A secret key that was written into judge.key or into the address must not reach a log.
    value = "(not shown)" if key in (("judge", "key"), ("judge", "base_url")) else shown(given)
    return f"{at}: {dotted(key)} = {value}: {message[0].lower() + message[1:]}"


def _number_hint(text: str) -> str:
    """What is wrong with a text that was meant to be a number; empty where that is not clear."""
    if re.fullmatch(r"[-+]?[0-9][0-9.]*,[0-9]+", text):
        return "; decimals take a point, thousands no comma"
    return " without a unit" if re.fullmatch(r"[-+]?[0-9.]+ *[A-Za-z%]+", text) else ""


def _item(key: Key, given: Any) -> str:
    """An example of an item for the list at `key`."""
    if not any(_models(_section(key[:-1]).model_fields[str(key[-1])].annotation)):
        return given if isinstance(given, str) else "a, b"
    return f"{{path: {given if isinstance(given, str) else 'FILE'}}}"


def _suggest(key: Key) -> str:
    """What an unknown key was probably meant to be; else the keys that there are."""
    known = [".".join(k) for k in _all_keys(Config)]
    leaf = str(key[-1])
    if NUMBER.match(leaf):
        return "; decimals take a point, not a comma"
    if leaf in SYNONYMS:
        return f"; here it is {SYNONYMS[leaf]}"
    wanted = ".".join(part for part in key if isinstance(part, str))
    near = closest(wanted, known, alike=0.75)
    if not near:  # right name in the wrong section, or a slip in the last part alone
        parent = wanted.rpartition(".")[0]
        same_leaf = [k for k in known if k.rpartition(".")[2] == leaf]
        leaves = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
        near = [" or ".join(same_leaf)] if same_leaf else [leaves[name] for name in closest(leaf, leaves, alike=0.5)]
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there is {', '.join(_fields(key[:-1]))}"


def _section(key: Key) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for part in key:
        if isinstance(part, str) and part in section.model_fields:
            section = next(_models(section.model_fields[part].annotation), section)
    return section


def _fields(key: Key) -> list[str]:
    return list(_section(key).model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _all_keys(section: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, info in section.model_fields.items():
        yield (*prefix, name)
        for inner in _models(info.annotation):
            yield from _all_keys(inner, (*prefix, name))


def dotted(key: Key) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in key).lstrip(".") or "the config"


def shown(value: Any) -> str:
    """A value as it looks in YAML, shortened."""
    text = "empty" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
