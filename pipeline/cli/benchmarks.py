"""The commands that run a script of scripts/benchmarks, which measure and compare."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec

from pipeline.cli.command_line import Given
from pipeline.demo.base_model import FILE, fetch_if_named
from pipeline.run.errors import UserError


def run_script(name: str, *words: str) -> None:
    """Runs scripts/benchmarks/NAME.py with these words as its command line; ends the process with its exit code.

    Raises:
        UserError: the scripts are not installed.
    """
    module = f"scripts.benchmarks.{name}"
    if find_spec("scripts") is None or find_spec(module) is None:
        raise UserError("the benchmarks are not installed", module, "run this in a checkout of the project")
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def bench(given: Given) -> None:
    """`bench` and `profile`."""
    profile = ["--profile"] if given.command.name == "profile" else []
    run_script("bench_train", *given.words, *profile, *given.more)


def curves(given: Given) -> None:
    fetch_if_named(str(FILE))  # the model of its short runs
    run_script("curves", *given.words, *_words(given))


def compare_runs(given: Given) -> None:
    """`methods` and `forgetting`."""
    given.load()
    run_script(given.command.name, *_words(given))


def _words(given: Given) -> list[str]:
    config = [f"--config={given.config}"] if given.config else []
    return [*config, *(f"--{name}={value}" for name, value in given.options.items()), *given.overrides]
