"""What stands in the way of a run folder and of standard output: one message, nothing written through or removed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.command import guarded
from pipeline.run import files
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file, write_text
from pipeline.run.folder import Run
from pipeline.run_report import stage as overview
from tests.helpers.report_run import CONFIG, make_run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["folder", "link", "dangling", "second name", "pipe"])
def test_the_lock_is_written_through_nothing(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "thesis.txt"
    mine.write_text("mine")
    run = Run(tmp_path / "run")
    run.root.mkdir()
    lock = run.root / ".lock"
    if kind == "folder":
        lock.mkdir()
    elif kind == "link":
        lock.symlink_to(mine)
    elif kind == "dangling":
        lock.symlink_to(tmp_path / "new")
    elif kind == "second name":
        os.link(mine, lock)
    else:
        os.mkfifo(lock)
    with pytest.raises(UserError) as caught, run.lock():
        pass
    assert caught.value.where == str(lock)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "new").exists()
    assert lock.is_symlink() or lock.exists()


@pytest.mark.parametrize("root", ["/proc/x/y", "FILE/x", "a" * 300, "/".join(["a" * 200] * 30)])
def test_run_folders_that_cannot_be(tmp_path: Path, root: str) -> None:
    (tmp_path / "FILE").write_text("")
    with pytest.raises(UserError), Run(tmp_path / root).lock():
        pass


def read_only(*_: object, **__: object) -> int:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "there")


def test_a_read_only_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    monkeypatch.setattr(files.os, "open", read_only)
    with pytest.raises(UserError, match="Read-only"), run.lock():
        pass


def test_a_report_on_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    monkeypatch.setattr("builtins.open", lambda *a, **k: read_only() if ".tmp" in str(a[0]) else OPEN(*a, **k))
    monkeypatch.setattr(Path, "unlink", read_only)  # such a disk refuses it before it asks whether there is a file
    with pytest.raises(UserError, match="Read-only"):
        overview.build(CONFIG, run)


OPEN = open


def command(code: str, **where: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with `guarded` around it."""
    whole = f"import sys; from pipeline.command import guarded; from pipeline.run.progress import say\n{code}"
    return subprocess.run([sys.executable, "-c", whole], cwd=ROOT, text=True, stderr=subprocess.PIPE, **where)  # type: ignore[call-overload,no-any-return]


def test_closed_standard_output_is_one_message() -> None:
    made = command("sys.exit(guarded(lambda: say('x')))", preexec_fn=lambda: os.close(1))
    assert made.returncode == 2
    assert made.stderr.startswith("suri: ")
    assert "Traceback" not in made.stderr


@pytest.mark.parametrize("word", ["say", "print"])
def test_a_full_standard_output_is_one_message(word: str) -> None:
    with open("/dev/full", "w") as full:
        made = command(f"sys.exit(guarded(lambda: {word}('x')))", stdout=full)
    assert made.returncode == 2
    assert made.stderr.count("suri: ") == 1
    assert "Traceback" not in made.stderr
    assert "Exception" not in made.stderr


@pytest.mark.parametrize("word", ["say", "print"])
def test_a_reader_that_went_away(word: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    made = command(f"sys.exit(guarded(lambda: {word}('x')))", stdout=writing)
    os.close(writing)
    assert made.returncode == 141
    assert made.stderr == ""


def test_names_that_are_too_long(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert guarded(lambda: (tmp_path / ("x" * 300)).read_text() and None) == 2
    assert "name" in " ".join(capsys.readouterr().err.split())


# --- hashes


def test_a_file_is_hashed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "base.gguf"
    path.write_bytes(b"one")
    monkeypatch.setattr(files, "SETTLED", -1)
    first = sha256_file(path)
    monkeypatch.setattr("builtins.open", read_only)
    assert sha256_file(path) == first


@pytest.mark.parametrize("settled", [True, False])
def test_a_change_under_the_same_size_and_time_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    before = path.stat()
    if settled:
        time.sleep(0.05)
        monkeypatch.setattr(files, "SETTLED", 1e7)
    first = sha256_file(path)
    with open(path, "r+b") as file:
        file.write(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert sha256_file(path) != first


# --- what killed processes leave


def test_left_overs_go_with_the_next_lock(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    outside = tmp_path / "outside"
    for folder in (run.root / ".export.tmp", run.root / "checkpoints" / ".step-000005.tmp", outside / ".mine.tmp"):
        folder.mkdir(parents=True)
        write_text(folder / "model.safetensors", "x" * 9)
    old = run.root / "partial" / ".base.jsonl.tmp"
    old.parent.mkdir()
    old.write_text("x")
    os.utime(old, (0, 0))
    (run.root / ".report.html.tmp").write_text("being written")
    (run.root / "export").symlink_to(outside)
    (run.root / ".x.tmp").symlink_to(outside)
    with run.lock():
        there = sorted(str(p.relative_to(run.root)) for p in run.root.rglob("*"))
    assert there == [".lock", ".report.html.tmp", "checkpoints", "export", "partial"]
    assert (outside / ".mine.tmp" / "model.safetensors").exists()
