"""The Makefile: what reaches a command, also with paths of unusual characters, and what `make clean` leaves alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.table import COMMANDS, GROUPS

ROOT = Path(__file__).parents[1]
EXTRAS = ("report", "ray", "browser", "eval", "judge", "documents", "notebook", "serving", "clients", "moto")
DEMO = ".cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf"
# In place of the venv's Python: writes down what it was called with.
STUB = f"""#!{sys.executable}
import json, os, sys
with open("calls", "a") as file:
    file.write(json.dumps([sys.argv[1:], os.environ.get("RUNS", "")]) + "\\n")
"""
ODD = 'it\'s "a" b; touch hit; $(touch hit) `touch hit` #한'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and a venv that is complete."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "scripts/unknown_target.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(STUB)
    python.chmod(0o755)
    for mark in ("ready", *EXTRAS):
        (tmp_path / ".venv" / f".{mark}").touch()
    return tmp_path


def make(folder: Path, *words: str) -> list[tuple[list[str], str]]:
    """`make WORDS` in `folder`; arguments and RUNS of each call of Python."""
    clean = {k: v for k, v in os.environ.items() if k not in ("RUNS", "CONFIG", "ARGS", "MAKEFLAGS", "MAKELEVEL")}
    made = subprocess.run(["make", *words], cwd=folder, env=clean, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    calls = folder / "calls"
    return [tuple(json.loads(line)) for line in calls.read_text().splitlines()] if calls.exists() else []


@pytest.mark.parametrize(
    "target", ["data", "train", "export", "report", "verify", "eval", "plan", "preview", "chat", "serve", "ui"]
)
def test_odd_paths_reach_the_command_whole(checkout: Path, target: str) -> None:
    word = ODD.replace("$", "$$")  # make's own spelling of a dollar sign
    calls = make(checkout, target, f"CONFIG={word}", f"RUNS={word}", "ARGS=train.lr=1 data.val=2")
    assert calls == [(["-m", f"scripts.{target}", f"--config={ODD}", "train.lr=1", "data.val=2"], ODD)]
    assert not (checkout / "hit").exists()


def test_cards_reach_train_and_plan(checkout: Path) -> None:
    ((words, _),) = make(checkout, "train", "GPUS=4", "RESTARTS=2")
    assert words[-2:] == ["--gpus=4", "--restarts=2"]
    *_, (words, _) = make(checkout, "plan", "GPUS=64", "CARD=h100", "PRICE=2.5")
    assert words[-3:] == ["--gpus=64", "--card=h100", "--price=2.5"]


def test_every_command_is_there(checkout: Path) -> None:
    """A script that moves takes its line of the Makefile along."""
    targets = [
        "data",
        "train",
        "export",
        "report",
        "verify",
        "eval",
        "plan",
        "preview",
        "chat",
        "serve",
        "ui",
        "ask",
        "compare",
        "judge",
        "keep",
        "adapters",
        "methods",
        "forgetting",
        "curves",
        "data-diff",
        "bench",
        "profile",
        "clean-runs",
    ]
    calls = make(checkout, *targets, "DATA=x", "TOKENIZER=x", "A=x", "B=x", "ADAPTER=x")
    called = [words[words.index("-m") + 1] for words, _ in calls if "-m" in words]
    assert len(called) >= len(targets)
    for module in called:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def refused(folder: Path, *words: str) -> str:
    """What `make WORDS` says when it ends with exit code 2 before any command ran."""
    made = subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)
    assert made.returncode == 2, made.stderr
    assert not (folder / "calls").exists()
    assert "Traceback" not in made.stderr
    return made.stderr


@pytest.mark.parametrize("version", ["3.79.1", "3.80", "3.81", "3.81.90"])
def test_an_old_make_is_refused(checkout: Path, version: str) -> None:
    assert f"this is {version}" in refused(checkout, f"MAKE_VERSION={version}", "export")


@pytest.mark.parametrize("version", ["3.82", "3.82.90", "4.0", "4.4.1"])
def test_a_new_make_is_taken(checkout: Path, version: str) -> None:
    assert make(checkout, f"MAKE_VERSION={version}", "preview") == [
        (["-m", "scripts.preview", "--config=configs/demo.yaml"], "")
    ]


def test_make_without_bash_is_refused(checkout: Path) -> None:
    assert "bash" in refused(checkout, "BASH_PATH=", "export")


def test_the_first_statement_is_bsd_makes_error() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if not line.startswith("#")]
    assert lines[0].startswith(".error suri: ")
    assert lines[0].count(":") == 1  # a second one would be a syntax error to GNU make
    bmake = shutil.which("bmake")
    if bmake:
        made = subprocess.run([bmake, "export"], cwd=ROOT, capture_output=True, text=True)
        assert made.returncode
        assert "gmake export" in made.stderr


def test_a_python_that_is_missing_or_does_not_start_is_refused(checkout: Path) -> None:
    (checkout / ".venv" / ".ready").unlink()
    shim = checkout / "python3.99"  # as pyenv's, for a version that is not active
    shim.write_text("#!/bin/sh\necho 'not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    for python in ("no-such-python", str(shim)):
        assert f"{python} is missing or does not start" in refused(checkout, f"PYTHON={python}", "export")
    assert (checkout / ".venv" / "bin" / "python").exists()


def test_another_environment_leaves_the_first_alone(checkout: Path) -> None:
    other = checkout / ".venv-other"
    (other / "bin").mkdir(parents=True)
    shutil.copy(checkout / ".venv" / "bin" / "python", other / "bin" / "python")
    with (other / "bin" / "python").open("a") as file:
        file.write("open('other', 'w').close()\n")
    (other / ".ready").touch()
    shutil.rmtree(checkout / ".venv")
    make(checkout, "test", "VENV=.venv-other")
    assert (checkout / "other").exists()
    assert not (checkout / ".venv").exists()


def test_the_set_up_is_told_folder_build_and_arguments(checkout: Path) -> None:
    stub = checkout / "python"
    stub.write_text(STUB.replace('"RUNS"', '"TORCH"'))
    stub.chmod(0o755)
    (checkout / ".venv" / ".ready").unlink()
    calls = make(checkout, "preview", f"PYTHON={stub}", "TORCH=cpu", "PIP_ARGS=--proxy x")
    assert (["-B", "-m", "scripts.setup_venv", "dev", "--proxy", "x"], "cpu") in calls


def test_odd_data_and_tokenizer(checkout: Path) -> None:
    word = ODD.replace("$", "$$")
    calls = make(
        checkout, "bench", "curves", "data-diff", f"DATA={word}", f"TOKENIZER={word}", f"A={word}", f"B={word}"
    )
    by_script = {call[0][1]: call[0][2:] for call in calls}
    assert by_script["scripts.benchmarks.bench_train"] == [ODD, ODD]
    assert by_script["scripts.benchmarks.curves"][0] == ODD
    assert by_script["scripts.data_diff"] == [ODD, ODD]
    assert not (checkout / "hit").exists()


def test_the_demo_is_fetched_for_configs_that_name_it(checkout: Path) -> None:
    path = checkout / "my 'own'.yaml"
    path.write_text(f"model: {{base: {DEMO}}}\n")
    assert make(checkout, "train", f"CONFIG={path}")[0][0] == ["-m", "scripts.fetch_demo", DEMO]
    (checkout / "calls").unlink()
    path.write_text("model: {base: other}\n")
    assert [call[0][1] for call in make(checkout, "train", f"CONFIG={path}")] == ["scripts.train"]
    (checkout / "calls").unlink()
    assert [call[0][1] for call in make(checkout, "train", "CONFIG=not-there")] == ["scripts.train"]


@pytest.mark.parametrize(
    ("text", "args", "installs"),
    [
        ("synthesis:\n  documents: [docs]\n", "", True),
        ("synthesis: {method: questions, documents: [docs]}\n", "", True),
        ("  # documents: [docs]\n", "", False),
        ("name: x\n", "", False),
        ("name: x\n", "synthesis.documents=[docs]", True),
        ("name: x\n", "'data.val=2' train.lr=1", False),
    ],
)
def test_the_package_for_pdf_is_installed_for_configs_with_documents(
    checkout: Path, text: str, args: str, installs: bool
) -> None:
    (checkout / ".venv" / ".documents").unlink()
    (checkout / "a b.yaml").write_text(text)
    calls = make(checkout, "generate", "CONFIG=a b.yaml", f"ARGS={args}", "PYTHON=.venv/bin/python")
    assert (["-B", "-m", "scripts.setup_venv", "documents"] in [words for words, _ in calls]) is installs
    assert (checkout / ".venv" / ".documents").exists() is installs
    assert calls[-1][0][:2] == ["-m", "scripts.generate"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", "did you mean `make train`?"), ("Export", "did you mean `make export`?"), (ODD, "`make` lists all")],
)
def test_an_unknown_target_names_the_nearest_one(checkout: Path, word: str, hint: str) -> None:
    """Before there is a .venv, and without making one."""
    shutil.rmtree(checkout / ".venv")
    made = subprocess.run(["make", word], cwd=checkout, capture_output=True, text=True)
    assert made.returncode == 2
    assert made.stderr.count("suri: no such target") == 1
    assert hint in made.stderr
    assert made.stdout == ""
    assert sorted(p.name for p in checkout.iterdir()) == ["Makefile", "constraints.txt", "pyproject.toml", "scripts"]


def test_an_unknown_target_without_python(checkout: Path) -> None:
    made = subprocess.run(["make", "trian", "PYTHON=no-such-python"], cwd=checkout, capture_output=True, text=True)
    assert made.returncode == 2
    assert "suri: no such target" in made.stderr


def test_files_are_no_unknown_targets(checkout: Path) -> None:
    (checkout / "notes.txt").touch()
    assert make(checkout, "notes.txt", ".venv/.report") == []


def test_make_has_the_commands_of_the_table(checkout: Path) -> None:
    """In the same groups; nothing else is printed but what only a checkout needs."""
    text = (ROOT / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY:(.*)$", text, re.M)
    printed = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    listed = {
        group.lower(): set(re.findall(r"^  make ([a-z-]+)", lines, re.M))
        for group, lines in re.findall(r"^([A-Z][a-z]+)\n((?:  .*\n)+)", printed, re.M)
    }
    table = {group: {c.name.split()[0] for c in COMMANDS if c.group == group} for group in GROUPS}
    table["advanced"] |= {"test", "check"}
    assert listed == table
    assert set().union(*table.values()) <= set(targets.split())


def test_clean_leaves_what_a_user_made(checkout: Path) -> None:
    kept = ["runs/a/adapter/adapter_model.safetensors", "runs/a/checkpoints/step-000001/state.json", "mine.yaml",
            "adapters/one/suri.json", ".cache/mine.gguf", "data/rows.json", "pipeline/own.py"]  # fmt: skip
    gone = [DEMO, ".cache/base/x/model.safetensors", ".mypy_cache/x", "pipeline/__pycache__/x.pyc"]
    for name in [*kept, *gone, "scripts/x", "tests/x"]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    calls = make(checkout, "clean")
    assert [name for name in kept if not (checkout / name).exists()] == []
    assert [name for name in gone if (checkout / name).exists()] == []
    assert calls[-1][0] == ["-m", "scripts.clean", "tmp"]


def test_clean_runs_wants_yes(checkout: Path) -> None:
    assert make(checkout, "clean-runs")[-1][0] == ["-m", "scripts.clean", "runs"]
    assert make(checkout, "clean-runs", "YES=1")[-1][0] == ["-m", "scripts.clean", "runs", "yes"]
    assert make(checkout, "clean-runs", "YES=no")[-1][0] == ["-m", "scripts.clean", "runs"]


def test_the_core_of_the_tests_needs_no_extra(checkout: Path) -> None:
    for mark in EXTRAS:
        (checkout / ".venv" / f".{mark}").unlink()
    ((words, _),) = make(checkout, "test", "ARGS=-k word")
    assert words[:3] == ["-m", "pytest", "-m"]
    markers = {*EXTRAS, "s3"} - {"clients", "moto"}  # whose tests have the markers `serving` and `s3`
    assert all(mark in words[3] for mark in ("slow", *markers))
    assert words[4:] == ["-k", "word"]


def test_all_tests_have_every_extra(checkout: Path) -> None:
    before = (checkout / ".venv" / ".ray").stat().st_mtime_ns
    calls = make(checkout, "test-all")
    assert [words[1] for words, _ in calls] == ["scripts.fetch_demo", "pytest"]  # the tutorial's tests need the base
    assert (checkout / ".venv" / ".ray").stat().st_mtime_ns == before  # installed once
