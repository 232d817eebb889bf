"""The command `suri`: its help, its one table, and that it works where it is called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline import stages
from pipeline.cli import adapters, extras, help, main, talk
from pipeline.cli.table import BY_NAME, COMMANDS, GROUPS
from pipeline.config.reference import entries
from pipeline.run.next_command import FRONT, next_command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def suri(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`suri WORDS` in this process; returns the exit code."""
    monkeypatch.setenv(FRONT, "")  # so that it is restored

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["suri", *words])
        return main.main()

    return call


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_every_command_in_its_group(
    suri: Any, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert suri(*words) == 0
    text = capsys.readouterr().out
    listed: dict[str, list[str]] = {}
    for line in text.splitlines():
        if (group := re.match(r"([a-z]+): ", line)) and group[1] in GROUPS:
            listed[group[1]] = []
        elif line.startswith("  "):
            listed[list(listed)[-1]].append(re.split(r" {2,}", line.strip())[0])
    assert listed == {group: [c.name for c in COMMANDS if c.group == group] for group in GROUPS}


@pytest.mark.parametrize("name", BY_NAME)
def test_help_of_each_command(suri: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert suri(*name.split(), "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: suri {name}")
    assert max(len(line) for line in text.splitlines()) <= help.WIDTH
    for place in BY_NAME[name].keys:
        for entry in entries(place):
            assert f"  {entry.key}=" in text


def test_help_is_narrow() -> None:
    assert max(len(line) for line in help.overview().splitlines()) <= help.WIDTH


def test_key_type_default_and_first_sentence() -> None:
    text = help.of_command(BY_NAME["train"])
    assert "  train.lr=0.0002  (number, at least 0)\n      Peak learning rate.\n" in text
    assert "suri data --help" in text


def test_the_table_makes_first_what_the_stages_need() -> None:
    for stage in ("train", "export", "eval", "compare", "judge"):
        assert BY_NAME[stage].makes_first == tuple(s.name for s in stages.up_to(stage) if s.name != "generate")[:-1]


def test_words_of_a_command_with_a_config_are_variables_of_make() -> None:
    for command in COMMANDS:
        assert len(command.variables) == (len(command.words) if command.config else 0), command.name


def test_every_script_is_a_command_of_the_table() -> None:
    started = {}
    for path in (ROOT / "scripts").glob("*.py"):
        if name := re.search(r'\bscript\("([a-z-]+)"\)', path.read_text()):
            started[path.stem] = name[1]
    assert {name.replace("_", "-") for name in started} == set(started.values())
    assert set(started.values()) <= set(BY_NAME)
    assert len(started) == 21


def test_a_script_has_the_help_of_its_command() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "scripts.data_diff", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert made.stdout == help.of_command(BY_NAME["data-diff"]) + "\n"


def test_suri_is_installed_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"suri": "pipeline.cli.main:main"}


def test_errors_of_suri_name_no_variable_of_make(suri: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodel: {base: some/model}\n")
    assert suri("plan", str(path), "train.lrr=1") == 2
    said = capsys.readouterr().err
    assert "command line: unknown key train.lrr; did you mean train.lr?" in said
    assert "ARGS" not in said


def test_it_works_in_the_folder_where_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Name a colour.", "output": "Red."}\n' * 3)
    (tmp_path / "mine.yaml").write_text("name: mine\ndata: {sources: [{path: rows.jsonl}]}\n")
    env = {k: v for k, v in os.environ.items() if k not in ("RUNS", FRONT)} | {"PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "data",
        "mine.yaml",
        "data.duplicates.exact=false",
        "data.duplicates.near=0",
    ]
    made = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert len((tmp_path / "runs" / "mine" / "dataset" / "train.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", ["korean", "한국어"])
def test_chat_with_a_stored_adapter(suri: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodel: {base: some/model}\n")
    asked = []
    monkeypatch.setattr(talk, "talk", lambda config, run: asked.append((config.chat.adapter, config.chat.temperature)))
    assert suri("chat", str(path), "--adapter", name, "chat.temperature=1") == 0
    assert asked == [(name, 1.0)]


def test_keep_and_measure(suri: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodel: {base: some/model}\n")
    monkeypatch.setenv("ADAPTERS", str(tmp_path / "adapters"))
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(adapters, "keep_adapter", lambda config, run, *words: calls.append((config.name, *words)))
    monkeypatch.setattr(adapters, "measure_adapter", lambda config, run, *words: calls.append((config.name, *words)))
    assert suri("keep", "maths", str(path), "name=other", "--replace") == 0
    assert next_command() == f"suri keep maths --replace {path} name=other"
    assert suri("adapters", "measure", "base", str(path)) == 0
    assert calls == [("other", "maths", True), ("mine", "base")]


def test_the_install_command_names_the_packages_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=2", "openai>=3.50; extra == 'judge'", 'lm-eval<0.5,>=0.4; extra == "eval"']
    monkeypatch.setattr(extras.metadata, "requires", lambda name: wanted)
    assert extras.install_command("eval").endswith(" 'lm-eval<0.5,>=0.4'")
    assert extras.install_command("judge").endswith(" 'openai>=3.50'")
    assert str(ROOT / "constraints.txt") in extras.install_command("judge")


def test_every_extra_that_a_command_needs_is_in_the_package() -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.MODULES) <= set(optional)


def test_the_version(suri: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert suri("--version") == 0
    assert re.fullmatch(r"suri \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (("bench", "a.json", "tok", "shared"), ["bench_train", "a.json", "tok", "shared"]),
        (("profile", "a.json", "tok"), ["bench_train", "a.json", "tok", "--profile"]),
        (("curves", "a.json", "--seeds", "1", "data.val=2"), ["curves", "a.json", "--seeds=1", "data.val=2"]),
    ],
)
def test_benchmarks_get_their_words(
    suri: Any, words: tuple[str, ...], argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("pipeline.cli.benchmarks.run_script", lambda *given: started.append(list(given)))
    monkeypatch.setattr("pipeline.cli.benchmarks.fetch_if_named", lambda base: None)
    assert suri(*words) == 0
    assert started == [argv]


def test_a_benchmark_ends_with_its_own_exit_code(suri: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        suri("forgetting", str(ROOT / "configs" / "lora-mistral-7b.yaml"), "--steps", "0")
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("suri: ") == 1
