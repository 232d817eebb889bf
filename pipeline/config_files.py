"""Problems of the files that a config names: its template, its data and its base.

They are reported with the config's own problems, in one message. The config's room may not know the rooms that read
these files, so the front door collects them.
"""

from __future__ import annotations

from typing import Any

from pipeline.config.method_rules import Problem
from pipeline.config.schema import Model, Source
from pipeline.dataset.read.source import kind_of as kind_of_source
from pipeline.dataset.read.source import located
from pipeline.model.base.location import kind_of as kind_of_base
from pipeline.prompt import template
from pipeline.run.errors import UserError
from pipeline.run.folder import Run


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
    sources = _section(values, "data").get("sources")
    for i, source in enumerate(sources if isinstance(sources, list) else ()):
        path = source.get("path") if isinstance(source, dict) else None
        if isinstance(path, str) and path and not _is_made_first(values, path):
            try:
                kind_of_source(Source.model_construct(path=path))
            except UserError as error:
                problems.append((("data", "sources", i, "path"), _line(error)))
    base = _section(values, "model").get("base")
    if isinstance(base, str):
        try:
            kind_of_base(Model.model_construct(base=base))
        except UserError as error:
            problems.append((("model", "base"), _line(error)))
    return problems


def _is_made_first(values: dict[str, Any], path: str) -> bool:
    """Whether a source is what this config generates before it reads its data."""
    is_own = isinstance(name := values.get("name"), str) and located(path) == Run.of(name).folder("generated")
    return is_own and _section(values, "synthesis").get("method", "none") != "none"


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def _line(error: UserError) -> str:
    return f"{error.what}; {error.fix}"
