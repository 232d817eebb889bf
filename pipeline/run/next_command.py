"""The exact command that goes on from here, with the user's own config, settings and run folder.

`started` notes how the program was called; a hint then is `make chat CONFIG=configs/mine.yaml`, or, where the program
was started as `suri`, `suri chat configs/mine.yaml`. The environment variable SURI_FRONT holds `suri` then, so that
processes that it starts give the same hints.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FLAGS = ("REPLACE", "PUBLIC", "UNFINISHED", "YES")  # variables of make that are options without a value in `suri`
DEMO = "configs/demo.yaml"  # what make takes without CONFIG
FRONT = "SURI_FRONT"
PLAIN = re.compile(r"[\w@%+=:,./\[\]{} -]*", re.ASCII)  # may stand between double quotes as it is


@dataclass(frozen=True)
class _Call:
    verb: str = ""
    config: str = DEMO
    overrides: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


_call = _Call()


def started(verb: str, config: str, overrides: Sequence[str], **variables: str) -> None:
    """Notes the command that this process runs: its verb, such as `export`, its config file and its settings.

    Args:
        variables: of make, such as ADAPTER="maths".
    """
    global _call
    _call = _Call(verb, config, tuple(overrides), tuple(variables.items()))


def verb_started() -> str:
    """The verb of the command that this process runs; empty in another program that imports this package."""
    return _call.verb


def is_suri() -> bool:
    """Whether the program was started as `suri`, rather than by make."""
    return os.environ.get(FRONT) == "suri"


def program() -> str:
    """`suri` or `make`, for hints on commands that take no config."""
    return "suri" if is_suri() else "make"


def next_command(verb: str = "", **variables: str) -> str:
    """The command line of a verb, for the config and settings of the command that runs; without a verb, that command.

    Args:
        variables: of make, such as ADAPTER="maths"; `suri` has its own form for each, such as `keep maths`.
    """
    if not verb:
        verb, variables = _call.verb or "export", {**dict(_call.variables), **variables}
    return _line(verb, variables, _call.overrides)


def command_without(verb: str, *keys: str) -> str:
    """The same without the settings of these keys, such as `synthesis.preview`."""
    return _line(verb, {}, [word for word in _call.overrides if word.partition("=")[0] not in keys])


def _line(verb: str, variables: Mapping[str, str], overrides: Sequence[str]) -> str:
    runs = os.environ.get("RUNS", "")
    if is_suri():
        words = ["suri", verb, *_suri_words(verb, variables), _call.config, *overrides]
        return (f"RUNS={shlex.quote(runs)} " if runs else "") + " ".join(map(shlex.quote, words))
    parts = ["make", verb, *(f"{name}={_quoted(value)}" for name, value in variables.items())]
    if _call.config != DEMO:
        parts.append(f"CONFIG={_quoted(_call.config)}")
    if overrides:
        parts.append(f"ARGS={_quoted(' '.join(map(shlex.quote, overrides)), always=True)}")
    if runs:
        parts.append(f"RUNS={_quoted(runs)}")
    return " ".join(parts)


def _suri_words(verb: str, variables: Mapping[str, str]) -> list[str]:
    """Variables of make as `suri` takes them, such as `keep maths --replace` or `adapters measure maths`."""
    words = []
    for name, value in variables.items():
        if name in FLAGS:
            words.append(f"--{name.lower()}")
        elif verb in ("keep", "push"):
            words.append(value)
        else:
            words += [name.lower() if verb == "adapters" else f"--{name.lower()}", value]
    return words


def _quoted(text: str, always: bool = False) -> str:
    """A value of a make variable as a shell takes it; make itself reads `$$` as `$`."""
    text = text.replace("$", "$$")
    if always and PLAIN.fullmatch(text):
        return f'"{text}"'
    return shlex.quote(text)
