"""The command `suri`, also as `python -m pipeline`: `suri COMMAND [CONFIG.yaml] [key=value ...]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pipeline import __version__
from pipeline.cli import help
from pipeline.cli.command_line import HELP, asks_for_help, read
from pipeline.cli.table import find
from pipeline.command import guarded
from pipeline.run.errors import UserError
from pipeline.run.next_command import FRONT


def main() -> int:
    """The entry point of `suri`; returns the exit code. Hints then name `suri` instead of `make`."""
    os.environ[FRONT] = "suri"
    return start(sys.argv[1:])


def script(name: str) -> int:
    """`python -m scripts.NAME`: the same command with the words behind it; returns the exit code."""
    return start([name, *sys.argv[1:]])


def start(words: Sequence[str]) -> int:
    """Runs the command that `words` name; returns the exit code."""
    return guarded(lambda: _run(list(words)))


def _run(words: list[str]) -> None:
    if words and words[0] == "help":
        words = [*words[1:], HELP[1]]
    if not words or words[0] in HELP:
        print(help.overview())
        return
    if words[0] == "--version":
        print(f"suri {__version__}")
        return
    if words[0].startswith("-"):
        raise UserError(f"no command before {words[0]!r}", "", "such as: suri export --config FILE")
    command, rest = find(words)
    if asks_for_help(rest):
        print(help.of_command(command))
        return
    command.run(read(command, rest))
