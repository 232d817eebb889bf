"""From a YAML file and `key=value` words to a `Config`: strict, with every problem in one message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.contradictions import contradictions
from pipeline.config.method_rules import Key
from pipeline.config.schema import Config
from pipeline.config.values import SYNONYMS
from pipeline.run.encoding import read_text
from pipeline.run.errors import UserError, one_line
from pipeline.run.nearest import closest, nearest_file
from pipeline.run.yaml_text import parsed

INDEX = re.compile(r"^[0-9]{1,6}$")
NUMBER = re.compile(r"^[0-9.]+([eE][-+]?[0-9]+)?$")


class _Loader(yaml.SafeLoader):
    """YAML in which 2e-5 is a number, only true and false are booleans, 010 is not 8, and 1:30 is not 90."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":int", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false|True|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_FLOAT = re.compile(
    r"^[-+]?([0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Puts quotes around a text that _Loader or any other YAML reader would take for a number or a switch."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load(path: str | Path, overrides: Sequence[str] = (), model: bool = True) -> Config:
    """Reads a config file, puts `key=value` overrides on top, and checks the whole.

    Args:
        model: whether what the config is read for needs a base model.

    Raises:
        UserError: the file cannot be read, or anything in it is wrong; the message lists every problem.
    """
    path = Path(path)
    text = _read(path)
    lines: dict[Key, str] = {}
    problems: list[str] = []
    try:
        node, values = parsed(text, _Loader)
        _places(node, (), str(path), lines, problems)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(
            f"not valid YAML: {_yaml_message(error)}", where, "check indentation and quotes there"
        ) from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        kind = "list" if isinstance(values, list) else "single value"
        raise UserError(f"a config is a table of keys, this is a {kind}", str(path), "see configs/demo.yaml")
    for word in overrides:
        _override(values, word, lines, problems)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += [_problem(dict(item), lines, str(path)) for item in error.errors()]
        config = None
    if config is not None:
        for key, what in contradictions(config, model):
            problems.append(f"{_place(key, lines, str(path))}: {_dotted(key)}: {what}")
    if problems or config is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"{count} in the config:\n" + "\n".join(f"  - {p}" for p in problems))
    return config


def dump(config: Config) -> str:
    """The resolved config as YAML: every value that the run uses."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _read(path: Path) -> str:
    if not path.is_file():
        hint = nearest_file(path, "give CONFIG=configs/NAME.yaml", "*.yaml")
        raise UserError("no such config file", str(path), hint)
    return read_text(path)


def _places(node: Any, key: Key, path: str, lines: dict[Key, str], problems: list[str]) -> None:
    """Fills `lines` with file:line of every key, and notes keys given twice (YAML itself keeps the last)."""
    if node is None:
        return
    lines.setdefault(key, f"{path}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                problems.append(f"{path}:{line}: a key is one word, not a list or a table")
                continue
            if name.value in seen:
                problems.append(
                    f"{path}:{line}: {_dotted((*key, name.value))} is given twice (first in line {seen[name.value]})"
                )
            seen[name.value] = line
            lines[(*key, name.value)] = f"{path}:{line}"
            _places(value, (*key, name.value), path, lines, problems)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _places(value, (*key, i), path, lines, problems)


def _override(values: dict[str, Any], word: str, lines: dict[Key, str], problems: list[str]) -> None:
    """Puts one `train.lr=1e-4` into `values`; list items go by index (`data.sources.0.limit=100`)."""
    dotted, equals, text = word.partition("=")
    if not equals or not dotted:
        problems.append(f"ARGS: {word!r} is not key=value")
        return
    try:
        value = parsed(text, _Loader)[1] if text else ""
    except (yaml.YAMLError, ValueError, RecursionError):
        problems.append(f"ARGS: {dotted}: cannot read {text!r} as a value")
        return
    key: Key = tuple(int(part) if INDEX.match(part) else part for part in dotted.split("."))
    here: Any = values
    for n, part in enumerate(key):
        last = n == len(key) - 1
        if isinstance(here, list) and isinstance(part, int) and part < len(here):
            if last:
                here[part] = value
            here = here[part]
        elif isinstance(here, dict) and isinstance(part, str):
            if last:
                here[part] = value
            elif here.get(part) is None:  # a section that is absent or empty begins here
                here[part] = {}
            here = here[part]
        else:
            problems.append(f"ARGS: {dotted}: {_cannot_hold(key[:n], here, part)}")
            return
    for old in [k for k in lines if k[: len(key)] == key]:
        del lines[old]
    lines[key] = "ARGS"


def _cannot_hold(key: Key, here: Any, part: str | int) -> str:
    """Why `part` cannot be set in what stands at `key`."""
    if isinstance(here, list):
        if isinstance(part, int):
            return f"{_dotted(key)} has {len(here)} items, counted from 0"
        return f"{_dotted(key)} is a list; name one of its {len(here)} items by its number, from 0"
    if isinstance(here, dict):
        return f"{_dotted(key)} is no list in the config file; write the whole: '{_dotted(key)}=[...]'"
    return f"{_dotted(key)} is {_shown(here)}, which has no keys"


def _place(key: Key, lines: dict[Key, str], path: str) -> str:
    """file:line of a key, or of the nearest thing around it that is in the file."""
    return next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), path)


def _shown(value: Any) -> str:
    """A value as it looks in YAML, shortened."""
    text = "empty" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _yaml_message(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "brackets are nested too deeply, or an alias holds itself"
    if isinstance(error, yaml.YAMLError):
        return getattr(error, "problem", None) or one_line(error)
    return "a number has too many digits"


def _problem(item: dict[str, Any], lines: dict[Key, str], path: str) -> str:
    """One line for one pydantic error: place, key, what is wrong, nearest key."""
    kind, given = item["type"], item["input"]
    key: Key = tuple(part for part in item["loc"] if part != "[key]")
    at = _place(key, lines, path)
    if kind == "invalid_key":
        return f"{_place((*key[:-1], str(given)), lines, path)}: unknown key {given}{_suggest((*key[:-1], str(given)))}"
    if kind == "extra_forbidden":
        return f"{at}: unknown key {_dotted(key)}{_suggest(key)}"
    if kind == "missing":
        return f"{at}: {_dotted(key)} is missing"
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    own = {
        "string_pattern_mismatch": "expected letters, digits, '.', '_' or '-', beginning with a letter or digit",
        "string_too_short": "must not be empty",
        "string_type": "expected text; put it in quotes",
    }
    if kind == "model_type":
        message = f"expected a table of keys ({', '.join(_fields(key))})"
    if kind == "tuple_type":
        message = f"expected a list, such as [{_item(key, given)}]"
    message = own.get(kind, message)
    # A secret key that was written into judge.key or into the address must not reach a log.
    shown = "(not shown)" if key[:1] == ("judge",) and key[-1:] in (("key",), ("base_url",)) else _shown(given)
    return f"{at}: {_dotted(key)} = {shown}: {message[0].lower() + message[1:]}"


def _item(key: Key, given: Any) -> str:
    """An example of an item for the list at `key`."""
    if not any(_models(_section(key[:-1]).model_fields[str(key[-1])].annotation)):
        return given if isinstance(given, str) else "a, b"
    return f"{{path: {given if isinstance(given, str) else 'FILE'}}}"


def _suggest(key: Key) -> str:
    known = [".".join(k) for k in _all_keys(Config)]
    leaf = str(key[-1])
    if NUMBER.match(leaf):
        return "; decimals take a point, not a comma"
    if leaf in SYNONYMS:
        return f"; here it is {SYNONYMS[leaf]}"
    dotted = ".".join(p for p in key if isinstance(p, str))
    near = closest(dotted, known, alike=0.75)
    if not near:  # right name in the wrong section, or a slip in the last part alone
        parent = ".".join(dotted.split(".")[:-1])
        same = [k for k in known if k.split(".")[-1] == leaf]
        beside = [k for k in known if ".".join(k.split(".")[:-1]) == parent]
        close = closest(leaf, [k.split(".")[-1] for k in beside], alike=0.5)
        near = [" or ".join(same)] if same else [k for k in beside if close and k.split(".")[-1] == close[0]]
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
    for name, field in section.model_fields.items():
        yield (*prefix, name)
        for inner in _models(field.annotation):
            yield from _all_keys(inner, (*prefix, name))


def _dotted(key: Key) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in key).lstrip(".") or "the config"
