"""Removes the folders of this machine from pages and cards, since those are sent to other people."""

from __future__ import annotations

import html
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config.schema import Config

SHORTEST = 3  # letters of a folder that is replaced wherever it stands; `/` and `/a` are too common in texts


def shortener(root: Path, *configs: Config) -> Callable[[str], str]:
    """A function that takes the folders of this machine out of a text.

    A path in a config becomes its last part, or as many parts as tell it from the others; the folder of the runs and
    the project become relative, the home folder `~`. Texts of rows that hold such a path are changed too.

    Args:
        root: the run folder.
    """
    changes = {**_roots(root), **_config_paths(configs)}
    changes |= {html.escape(old): html.escape(new) for old, new in changes.items()}
    known = {old: new for old, new in changes.items() if len(old.strip("/")) >= SHORTEST}
    if not known:
        return lambda text: text
    names = sorted(known, key=len, reverse=True)
    either = "|".join(re.escape(old) + ("" if old.endswith("/") else r"(?![\w-])") for old in names)
    # Not in the middle of a longer path.
    pattern = re.compile(rf"(?<![\w.~-])(?:{either})")
    return lambda text: pattern.sub(lambda match: known[match[0]], text)


def shortened(value: Any, short: Callable[[str], str]) -> Any:
    """Plain data with every text in it, keys too, passed through a shortener."""
    if isinstance(value, str):
        return short(value)
    if isinstance(value, dict):
        return {short(k) if isinstance(k, str) else k: shortened(v, short) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(v, short) for v in value]
    return value


def _roots(root: Path) -> dict[str, str]:
    """Short names of the home folder, the project and the folder of the runs, by path."""
    here = Path.cwd()
    names: dict[str, str] = {}
    for home in {Path.home(), Path.home().resolve()}:
        names |= {f"{home}/": "~/", str(home): "~"}
    for project in {here, here.resolve(), Path(os.environ.get("PWD") or here)}:
        names |= {f"{project}/": "", str(project): "."}
    for runs in {root.absolute().parent, root.resolve().parent}:
        name = str(runs.relative_to(here)) if runs.is_relative_to(here) else runs.name
        names |= {f"{runs}/": f"{name}/" if name != "." else "", str(runs): name}
    return names


def _config_paths(configs: tuple[Config, ...]) -> dict[str, str]:
    """Short names of the absolute paths in configs, by path: the last parts that tell it from the others."""
    paths = list(dict.fromkeys(p for c in configs for p in _absolute(c.model_dump(mode="json"))))
    names: dict[str, str] = {}
    for path in paths:
        parts = PurePosixPath(path).parts
        count = next((n for n in range(1, len(parts)) if Counter(_tails(paths, n))["/".join(parts[-n:])] == 1), 1)
        tail = "/".join(parts[-count:])
        folder = path.rstrip("/")[: -len(tail)] if path.rstrip("/").endswith(tail) else ""
        names |= {path: tail, **({folder: ""} if folder else {})}
    return names


def _tails(paths: list[str], count: int) -> Iterator[str]:
    for path in paths:
        parts = PurePosixPath(path).parts
        yield "/".join(parts[-count:] if len(parts) > count else parts[1:])


def _absolute(value: Any) -> Iterator[str]:
    """The absolute paths in plain data, in their order."""
    if isinstance(value, str) and value.startswith(("/", "~/")) and value.count("/") > 1 and "\n" not in value:
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _absolute(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _absolute(inner)
