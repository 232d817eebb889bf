"""The command of a hint gives the user's own config, settings and run folder back to the shell."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from pipeline.cli.command_line import read
from pipeline.cli.table import find
from pipeline.run import next_command as commands
from pipeline.run.next_command import FRONT, next_command, started


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_call", commands._Call())
    monkeypatch.delenv("RUNS", raising=False)
    monkeypatch.setenv(FRONT, "")  # put back afterwards, whatever a test sets


def test_the_demo_needs_no_config() -> None:
    started("export", "configs/demo.yaml", [])
    assert next_command("chat") == "make chat"
    assert next_command() == "make export"


def test_config_settings_and_run_folder_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    started("train", "configs/mine.yaml", ["train.lr=1e-4", "name=other"])
    assert next_command() == 'make train CONFIG=configs/mine.yaml ARGS="train.lr=1e-4 name=other"'
    monkeypatch.setenv("RUNS", "/big/runs")
    assert next_command("chat").endswith('ARGS="train.lr=1e-4 name=other" RUNS=/big/runs')


def test_as_suri_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FRONT, "suri")
    monkeypatch.setenv("RUNS", "/big/runs")
    started("export", "my config.yaml", ["train.lr=1e-4"])
    assert shlex.split(next_command("chat")) == ["RUNS=/big/runs", "suri", "chat", "my config.yaml", "train.lr=1e-4"]


@pytest.mark.parametrize(
    ("verb", "variables", "words"),
    [
        ("keep", {"ADAPTER": "maths"}, ["keep", "maths"]),
        ("keep", {"ADAPTER": "maths", "REPLACE": "yes"}, ["keep", "maths", "--replace"]),
        ("adapters", {"MEASURE": "maths"}, ["adapters", "measure", "maths"]),
        ("chat", {"ADAPTER": "maths"}, ["chat", "--adapter", "maths"]),
    ],
)
def test_names_have_their_place_behind_suri(
    verb: str, variables: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line of `suri` reads them."""
    monkeypatch.setenv(FRONT, "suri")
    started(verb, "mine.yaml", ["train.lr=1e-4"], **variables)
    assert shlex.split(next_command()) == ["suri", *words, "mine.yaml", "train.lr=1e-4"]
    command, rest = find(shlex.split(next_command())[1:])
    given = read(command, rest)
    assert (given.config, given.overrides) == ("mine.yaml", ("train.lr=1e-4",))
    assert "maths" in (*given.words, given.options.get("adapter"))


def test_variables_of_make_are_repeated_for_the_same_command_only() -> None:
    started("keep", "c.yaml", [], ADAPTER="maths")
    assert next_command() == "make keep ADAPTER=maths CONFIG=c.yaml"
    assert next_command("chat", ADAPTER="maths") == "make chat ADAPTER=maths CONFIG=c.yaml"
    assert next_command("report") == "make report CONFIG=c.yaml"


@pytest.mark.parametrize("word", ["eval.prompts=[Say it's $5.]", 'eval.prompts=["a b"]', "name=a b", "x=`date`$(id)"])
def test_make_hands_the_words_on_unchanged(word: str, tmp_path: Path) -> None:
    """Through the shell, make, and the shell that make starts."""
    started("show", "a b's $c.yaml", [word])
    (tmp_path / "Makefile").write_text(
        'export CONFIG\nshow:\n\t@for w in "$$CONFIG" $(ARGS); do printf "%s\\n" "$$w"; done\n'
    )
    made = subprocess.run(["bash", "-c", next_command()], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout.splitlines() == ["a b's $c.yaml", word]
