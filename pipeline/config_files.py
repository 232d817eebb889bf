"""Problems of the files that a config names: its template, its data and its base.

They are reported with the config's own problems, in one message. The config's room may not know the rooms that read
these files, so the front door collects them.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.method_rules import Problem
from pipeline.config.schema import Model, Source
from pipeline.dataset.read.source import kind_of as kind_of_source
from pipeline.dataset.read.source import located
from pipeline.model.base.location import kind_of as kind_of_base
from pipeline.prompt import template
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.nearest import nearest_file

NAME_ONE = "paths are relative to the folder in which the command runs"


def file_problems(values: dict[str, Any]) -> list[Problem]:
    """Everything that is missing or wrong, as (key, what is wrong and what to do).

    Args:
        values: of the config as given, not checked yet; what is of another type is reported by the schema.
    """
    problems: list[Problem] = []
    name = _section(values, "prompt").get("template")
    if isinstance(name, str):
        problems += [(("prompt", "template"), line) for line in template.problems(name)]
    if _section(values, "chat").get("adapter"):  # the chat with a stored adapter reads no data
        return problems
    problems += _of_sources(_section(values, "data"), "data", lambda path: _is_made_first(values, path))
    problems += _of_synthesis(_section(values, "synthesis"))
    base = _section(values, "model").get("base")
    if isinstance(base, str):
        try:
            kind_of_base(Model.model_construct(base=base))
        except UserError as error:
            problems.append((("model", "base"), _line(error)))
    return problems


def _of_synthesis(section: dict[str, Any]) -> list[Problem]:
    """Of the files that rows are generated from, where a method is named."""
    problems: list[Problem] = []
    if section.get("method", "none") == "none":
        return problems
    for name in ("seeds", "documents"):
        paths = section.get(name)
        for i, path in enumerate(paths if isinstance(paths, list) else ()):
            if isinstance(path, str) and path and not _is_there(path, only_file=name == "seeds"):
                what = "no such file" if name == "seeds" else "no such file or folder"
                problems.append((("synthesis", name, i), f"{what}: {path}; {nearest_file(Path(path), NAME_ONE)}"))
    return problems + _of_sources(section, "synthesis")


def _of_sources(
    section: dict[str, Any], name: str, is_made_first: Callable[[str], bool] = lambda path: False
) -> list[Problem]:
    """Of the files that `sources` of a section names, but for those that the command makes first."""
    problems: list[Problem] = []
    sources = section.get("sources")
    for i, source in enumerate(sources if isinstance(sources, list) else ()):
        path = source.get("path") if isinstance(source, dict) else None
        if isinstance(path, str) and path and not is_made_first(path):
            try:
                kind_of_source(Source.model_construct(path=path))
            except UserError as error:
                problems.append(((name, "sources", i, "path"), _line(error)))
    return problems


def _is_there(path: str, only_file: bool) -> bool:
    if only_file:
        return Path(path).is_file()
    return Path(path).exists() or (glob.has_magic(path) and bool(glob.glob(path, recursive=True)))


def _is_made_first(values: dict[str, Any], path: str) -> bool:
    """Whether a source is what this config generates before it reads its data."""
    is_own = isinstance(name := values.get("name"), str) and located(path) == Run.of(name).folder("generated")
    return is_own and _section(values, "synthesis").get("method", "none") != "none"


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def _line(error: UserError) -> str:
    return f"{error.what}; {error.fix}"
