"""What the set-up checks, chooses and hands to pip. Nothing is installed here."""

from __future__ import annotations

import ast
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.run.errors import UserError
from scripts.setup import install, machine, torch_build

ROOT = Path(__file__).parents[2]
VERSION = next(pin for pin in install.pinned("") if pin.startswith("torch==")).removeprefix("torch==")


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13)])
def test_an_old_python_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(os, "system", lambda command: 0 if command.startswith("python3.12 ") else 127)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / "setup_venv.py"))
    assert stopped.value.code == 2
    assert "PYTHON=python3.12" in capsys.readouterr().err


def test_the_first_file_is_read_by_any_python() -> None:
    tree = ast.parse((ROOT / "scripts" / "setup_venv.py").read_text(), feature_version=(3, 4))
    newer = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.FunctionDef, ast.With)
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]


def test_the_set_up_needs_nothing_installed() -> None:
    """-S: without site-packages; -I would drop the working directory, from which make calls it."""
    code = "import sys, scripts.setup_venv; print(sorted({m.split('.')[0] for m in sys.modules}))"
    made = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert set(ast.literal_eval(made.stdout)) - sys.stdlib_module_names == {"__main__", "pipeline", "scripts"} - set(
        sys.stdlib_module_names
    )


def test_this_python_is_taken() -> None:
    machine.check_python()


@pytest.mark.parametrize("version", [(3, 15), (4, 0)])
def test_a_python_without_wheels_is_refused(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    with pytest.raises(UserError, match="too new"):
        machine.check_python()


def test_a_python_without_the_lock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = sysconfig.get_config_var
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: 1 if name == "Py_GIL_DISABLED" else known(name))
    with pytest.raises(UserError, match="global lock"):
        machine.check_python()


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_python_without_venv_is_refused(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find = machine.importlib.util.find_spec
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(UserError, match=missing) as stopped:
        machine.check_python()
    assert f"python3.{sys.version_info[1]}-venv" in stopped.value.fix


@pytest.mark.parametrize(
    ("system", "processor", "word"), [("Windows", "AMD64", "WSL"), ("Darwin", "x86_64", "Apple"), ("Linux", "x", "")]
)
def test_systems(monkeypatch: pytest.MonkeyPatch, system: str, processor: str, word: str) -> None:
    monkeypatch.setattr(machine.platform, "system", lambda: system)
    monkeypatch.setattr(machine.platform, "machine", lambda: processor)
    if not word:
        return machine.check_python()
    with pytest.raises(UserError) as stopped:
        machine.check_python()
    assert word in stopped.value.fix
    return None


@pytest.mark.parametrize(
    ("one_disk", "free", "kind", "enough"),
    [(True, 2.6, "cpu", True), (True, 2.4, "cpu", False), (True, 2.6, "cuda", False), (True, 9, "cuda", True),
     (False, 2.0, "cpu", True), (False, 0.5, "cpu", False), (True, 1.2, "extra", True), (True, 0.5, "extra", False)],
)  # fmt: skip
def test_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_disk: bool, free: float, kind: str, enough: bool
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free * 1e9))
    monkeypatch.setattr(machine, "device", lambda folder: "one" if one_disk else str(folder))
    if enough:
        return machine.check_disk(tmp_path / "not" / "there", kind)
    with pytest.raises(UserError, match="disk"):
        machine.check_disk(tmp_path / "not" / "there", kind)
    return None


def test_a_small_temporary_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = tmp_path / "small"
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(small))
    monkeypatch.setattr(
        machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e8 if folder == small else 1e11)
    )
    monkeypatch.setattr(machine, "device", str)
    with pytest.raises(UserError, match=r"0\.1 GB") as stopped:
        machine.check_disk(tmp_path / ".venv", "cuda")
    assert (stopped.value.where, "TMPDIR" in stopped.value.fix) == (str(small), True)


def test_an_environment_that_is_not_whole_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[Path] = []

    def create(words: list[str], **_: object) -> SimpleNamespace:
        created.append(Path(words[-1]))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(install.subprocess, "run", create)
    place = tmp_path / ".venv"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").touch()
    with pytest.raises(UserError) as stopped:  # somebody's folder: VENV=/home/me
        install.make_environment(place, whole=False)
    assert stopped.value.where == str(place)
    (place / "pyvenv.cfg").touch()
    (place / install.READY).touch()
    install.make_environment(place, whole=True)
    assert (created, (place / install.READY).exists()) == ([], False)  # kept; the mark comes back at the end
    install.make_environment(place, whole=False)
    assert (created, place.exists()) == ([place], False)
    shutil.copytree(ROOT / "configs", tmp_path / "other")
    place.symlink_to(tmp_path / "other")
    install.make_environment(place, whole=False)  # a link is taken away, what it points to stays
    assert (place.is_symlink(), (tmp_path / "other").is_dir()) == (False, True)


def test_what_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[list[str]]] = []
    monkeypatch.setattr(install, "make_environment", lambda venv, whole: None)
    monkeypatch.setattr(install.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=""))
    monkeypatch.setattr(install.machine, "check_disk", lambda venv, kind: None)
    monkeypatch.setattr(torch_build, "choose", lambda *a: torch_build.Choice("cpu", "https://cpu", "told"))
    monkeypatch.setattr(install, "run_pips", lambda venv, jobs, wanted: calls.append(jobs))
    install.install_core(tmp_path / ".venv", "", ["--proxy", "x"])
    pins, (last,) = calls
    assert pins[0] == ["--no-deps", f"torch=={VERSION}", "--proxy", "x", "--index-url", "https://cpu"]
    assert [job for job in pins[1:] if "--index-url" in job] == []  # nothing but torch comes from there
    installed = [word for job in pins for word in job if "==" in word]
    assert sorted(installed) == sorted(install.pinned(""))  # each once
    assert ("--no-deps" in last, last[-4:-2], last[-2:]) == (False, ["-e", ".[dev]"], ["--proxy", "x"])


def test_a_pip_that_fails_stops_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = tmp_path / "pip"
    stub.write_text('#!/bin/sh\nif [ "$4" = bad ]; then echo no space left; exit 1; fi\nexec sleep 600\n')
    stub.chmod(0o755)
    monkeypatch.setattr(install, "pip", lambda venv: [str(stub)])
    with pytest.raises(UserError, match="pip could not install"):
        install.run_pips(tmp_path, [["good"], ["bad"]], 2)
    assert "no space left" in capsys.readouterr().err


def test_errors_end_with_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TORCH", "gpu")
    assert install.main(["dev"]) == 2
    assert capsys.readouterr().err.startswith("suri: TORCH=gpu")
