"""What the benchmarks of several ranks share: their command line, the ranks that they start, and their table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.command import guarded
from pipeline.ranks.card import card_count, card_name, uses_cpu
from pipeline.ranks.launch import launch_command
from pipeline.run.errors import UserError
from scripts.benchmarks.bench_call import check_places, options_of, where
from scripts.benchmarks.bench_train import encoded, tokens_file

CUDA = torch.cuda.is_available()
KIND = torch.bfloat16 if CUDA else torch.float32
WORKER = "SURI_BENCH_RANK"  # environment variable of a rank: its settings as JSON


@dataclass(frozen=True)
class Call:
    """A command line.

    Attributes:
        data, tokenizer: a file of rows, a folder. options: by name, with the defaults. is_trial: `--tiny`.
    """

    data: str
    tokenizer: str
    options: dict[str, str]
    is_trial: bool

    @classmethod
    def of(cls, words: Sequence[str], defaults: Mapping[str, str], script: str) -> Call:
        """Reads and checks the words.

        Args:
            defaults: of all options but `--tiny`; `cards` is among them.

        Raises:
            UserError: an option that there is not, no data, or fewer cards than `--cards` names.
        """
        plain, options = options_of(words, defaults, script, ["--tiny"])
        check_places(plain, page="docs/scaling.md")
        call = cls(plain[0], plain[1], options, "--tiny" in words)
        if not uses_cpu() and max(call.cards) > card_count():
            raise UserError(f"{max(call.cards)} cards, and torch sees {card_count()}", "--cards", "name fewer")
        if uses_cpu() and not call.is_trial:
            raise UserError("no card", script, "--tiny tries the script on CPUs")
        return call

    @property
    def cards(self) -> list[int]:
        return [int(text) for text in self.options["cards"].split(",")]

    def settings(self, shape: str, folder: Path) -> dict[str, Any]:
        """Encodes the rows; returns what every rank of every case is told. folder: for the rows and the results."""
        _, preambles = encoded(self.data, self.tokenizer, folder)
        return {
            "tokens": str(tokens_file(folder)), "preambles": [list(map(int, p)) for p in preambles], "shape": shape,
            "rows": int(self.options["rows"]), "result": str(folder / "result.json"),
        }  # fmt: skip

    def print_table(self, head: str, lines: Sequence[str], shape: str) -> None:
        """head: the table's first two lines."""
        print(f"\n{where()}, {card_name(0)}, {self.options['rows']} rows a step, {shape}\n")
        print("\n".join([head, *lines]))


def told() -> dict[str, Any]:
    """The settings of this rank."""
    return dict(json.loads(os.environ[WORKER]))


def measure(script: str, settings: dict[str, Any], count: int) -> dict[str, Any]:
    """Starts so many ranks of a script and reads what the first of them measured.

    Raises:
        UserError, SystemExit: a rank failed.
    """
    result = Path(settings["result"])
    result.unlink(missing_ok=True)
    os.environ[WORKER] = json.dumps(settings)
    try:
        launch_command(count, ["-m", f"scripts.benchmarks.{script}"])
    finally:
        del os.environ[WORKER]
    return dict(json.loads(result.read_text()))


def fullest_card(accelerator: Accelerator) -> float:
    """Peak memory in GiB of the rank with the most; 0 on CPUs."""
    peak = torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0
    return float(accelerator.gather(torch.tensor([peak], device=accelerator.device)).max())


def run(work: Callable[[], None], main: Callable[[], None]) -> int:
    """The exit code of the script: of `work` in a rank, of `main` in the command that starts the ranks."""
    return guarded(work if WORKER in os.environ else main)
