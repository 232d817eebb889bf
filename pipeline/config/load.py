"""From a YAML file and `key=value` words to a `Config`: strict, with every problem in one message."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.contradictions import contradictions
from pipeline.config.method_rules import Key, Problem
from pipeline.config.problem import Places, dotted, problem_of, shown
from pipeline.config.schema import Config
from pipeline.run.encoding import read_text
from pipeline.run.errors import UserError, one_line
from pipeline.run.nearest import nearest_file
from pipeline.run.next_command import is_suri
from pipeline.run.yaml_text import parsed

INDEX = re.compile(r"^[0-9]{1,6}$")


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


Values = dict[str, Any]  # of a config as they were given: sections, keys, values; none is checked


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    model: bool = True,
    more: Callable[[Values], list[Problem]] = lambda values: [],
) -> Config:
    """Reads a config file, puts `key=value` overrides on top, and checks the whole.

    Args:
        model: whether what the config is read for needs a base model.
        more: further problems, of the values as given: what rooms behind this one know, such as of a template's file.

    Raises:
        UserError: the file cannot be read, or anything in it is wrong; the message lists every problem.
    """
    path = Path(path)
    text = _read(path)
    places = Places(str(path))
    problems: list[str] = []
    try:
        node, values = parsed(text, _Loader)
        _note_places(node, (), places, problems)
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
        _override(values, word, places, problems)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += [problem_of(dict(item), places) for item in error.errors()]
        config = None
    if config is not None:
        for key, what in contradictions(config, model):
            problems.append(f"{places.of(key)}: {dotted(key)}: {what}")
    problems += [f"{places.of(key)}: {dotted(key)}: {what}" for key, what in more(values)]
    if problems or config is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"{count} in the config:\n" + "\n".join(f"  - {p}" for p in problems))
    return config


def dump(config: Config) -> str:
    """The resolved config as YAML: every value that the run uses."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def former_base(run: Path) -> str:
    """`model.base` of the config that a run folder was made with last; empty where there is none."""
    try:
        values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return str(values["model"]["base"])
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return ""


def _read(path: Path) -> str:
    if not path.is_file():
        example = "name one: suri COMMAND configs/NAME.yaml" if is_suri() else "give CONFIG=configs/NAME.yaml"
        hint = nearest_file(path, example, "*.yaml")
        raise UserError("no such config file", str(path), hint)
    return read_text(path)


def _note_places(node: Any, key: Key, places: Places, problems: list[str]) -> None:
    """Notes the line of every key, and keys that are given twice (YAML itself keeps the last)."""
    if node is None:
        return
    places.of_keys.setdefault(key, f"{places.path}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            place = f"{places.path}:{line}"
            if not isinstance(name, yaml.ScalarNode):
                problems.append(f"{place}: a key is one word, not a list or a table")
                continue
            if name.value in seen:
                problems.append(
                    f"{place}: {dotted((*key, name.value))} is given twice (first in line {seen[name.value]})"
                )
            seen[name.value] = line
            places.of_keys[(*key, name.value)] = place
            _note_places(value, (*key, name.value), places, problems)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _note_places(value, (*key, i), places, problems)


def _override(values: dict[str, Any], word: str, places: Places, problems: list[str]) -> None:
    """Puts one `train.lr=1e-4` into `values`; list items go by index (`data.sources.0.limit=100`)."""
    dotted, equals, text = word.partition("=")
    if not equals or not dotted:
        problems.append(f"{_given()}: {word!r} is not key=value")
        return
    try:
        value = parsed(text, _Loader)[1] if text else ""
    except (yaml.YAMLError, ValueError, RecursionError):
        problems.append(f"{_given()}: {dotted}: cannot read {text!r} as a value")
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
            problems.append(f"{_given()}: {dotted}: {_cannot_hold(key[:n], here, part)}")
            return
    for inner in [k for k in places.of_keys if k[: len(key)] == key]:
        del places.of_keys[inner]
    places.of_keys[key] = _given()


def _given() -> str:
    """Where overrides were given: the variable of make, or behind `suri`."""
    return "command line" if is_suri() else "ARGS"


def _cannot_hold(key: Key, here: Any, part: str | int) -> str:
    """Why `part` cannot be set in what stands at `key`."""
    if isinstance(here, list):
        if isinstance(part, int):
            return f"{dotted(key)} has {len(here)} items, counted from 0"
        return f"{dotted(key)} is a list; name one of its {len(here)} items by its number, from 0"
    if isinstance(here, dict):
        return f"{dotted(key)} is no list in the config file; write the whole: '{dotted(key)}=[...]'"
    return f"{dotted(key)} is {shown(here)}, which has no keys"


def _yaml_message(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "brackets are nested too deeply, or an alias holds itself"
    if isinstance(error, yaml.YAMLError):
        return getattr(error, "problem", None) or one_line(error)
    return "a number has too many digits"
