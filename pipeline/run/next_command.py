"""The exact command that goes on from here, with the user's own config, settings and run folder.

`started` notes how the program was called; a hint then is `make chat CONFIG=configs/mine.yaml`, or, where the program
was started as `suri`, `suri chat configs/mine.yaml`. The entry point of `suri` sets the environment variable SURI_FRONT
to `suri`, so that processes it starts give the same hints.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

DEMO = "configs/demo.yaml"  # what make takes without CONFIG
FRONT = "SURI_FRONT"
PLAIN = re.compile(r"[\w@%+=:,./\[\]{} -]*", re.ASCII)  # may stand between double quotes as it is


@dataclass(frozen=True)
class _Call:
    verb: str = ""
    config: str = DEMO
    overrides: tuple[str, ...] = ()


_call = _Call()


def started(verb: str, config: str, overrides: Sequence[str]) -> None:
    """Notes the command that this process runs: its verb, such as `export`, its config file and its settings."""
    global _call
    _call = _Call(verb, config, tuple(overrides))


def is_suri() -> bool:
    """Whether the program was started as `suri`, rather than by make."""
    return os.environ.get(FRONT) == "suri"


def next_command(verb: str = "", **variables: str) -> str:
    """The command line of a verb, for the config and settings of the command that runs; without a verb, that command.

    Args:
        variables: of make, such as ADAPTER="maths"; for `suri` they are given as `--adapter maths`.
    """
    verb = verb or _call.verb or "export"
    runs = os.environ.get("RUNS", "")
    if is_suri():
        words = ["suri", verb, *(w for name, value in variables.items() for w in (f"--{name.lower()}", value))]
        words = [*words, _call.config, *_call.overrides]
        return (f"RUNS={shlex.quote(runs)} " if runs else "") + " ".join(map(shlex.quote, words))
    parts = ["make", verb, *(f"{name}={_quoted(value)}" for name, value in variables.items())]
    if _call.config != DEMO:
        parts.append(f"CONFIG={_quoted(_call.config)}")
    if _call.overrides:
        parts.append(f"ARGS={_quoted(' '.join(map(shlex.quote, _call.overrides)), always=True)}")
    if runs:
        parts.append(f"RUNS={_quoted(runs)}")
    return " ".join(parts)


def _quoted(text: str, always: bool = False) -> str:
    """A value of a make variable as a shell takes it; make itself reads `$$` as `$`."""
    text = text.replace("$", "$$")
    if always and PLAIN.fullmatch(text):
        return f'"{text}"'
    return shlex.quote(text)
