"""The run folder: old or new but never half, one process at a time, up to date or not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.dataset import stage
from pipeline.run import files
from pipeline.run.errors import UserError
from pipeline.run.files import make_folder, need_space, read_json, recover, replace_folder, write_json, write_text
from pipeline.run.folder import Run, input_hashes
from tests.helpers.tiny import load_examples

KEY = {"version": 1, "sizes": (1, 2)}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def finish(run: Run, text: str, key: dict[str, Any] = KEY) -> None:
    """One finished stage."""
    with run.writing("stage", key) as output:
        (output.folder / "inner").mkdir()
        write_text(output.folder / "inner" / "a.txt", text)
        output.counts["rows"] = 3


# --- replace_folder


def test_a_folder_is_swapped_in_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    for text in ("old", "new"):
        with replace_folder(target) as folder:
            assert not (target / "a.txt").exists() or (target / "a.txt").read_text() == "old"
            (folder / "a.txt").write_text(text)
        assert (target / "a.txt").read_text() == text
    assert names(target.parent) == ["target"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_leaves_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    def write(text: str, error: BaseException | None) -> None:
        with replace_folder(tmp_path / "target") as folder:
            (folder / "a.txt").write_text(text)
            if error:
                raise error

    with pytest.raises(type(error)):
        write("first", error)
    assert names(tmp_path) == []
    write("old", None)
    with pytest.raises(type(error)):
        write("new", error)
    assert (tmp_path / "target" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("crash_at", [1, 2])
def test_a_crash_at_either_rename_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    run = Run(tmp_path)
    finish(run, "old")
    renames = 0
    real = os.replace

    def dying(source: Path, target: Path) -> None:
        nonlocal renames
        if Path(target).parent == tmp_path:  # the renames of the stage's folder, not of files inside
            renames += 1
            if renames == crash_at:
                raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            finish(run, "new")
    files.recover(run.folder("stage"))  # what taking the lock does
    assert run.is_current("stage", KEY)
    assert (tmp_path / "stage" / "inner" / "a.txt").read_text() == "old"
    finish(run, "newer")
    assert (tmp_path / "stage" / "inner" / "a.txt").read_text() == "newer"
    assert names(tmp_path) == ["stage"]


def test_a_crash_before_the_old_folder_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / ".stage.old").mkdir()
    recover(tmp_path / "stage")
    assert names(tmp_path) == ["stage"]


def test_left_overs_of_a_killed_process_go_away(tmp_path: Path) -> None:
    (tmp_path / ".stage.tmp" / "x").mkdir(parents=True)
    finish(Run(tmp_path), "a")
    assert names(tmp_path) == ["stage"]
    assert names(tmp_path / "stage") == ["inner", "manifest.json"]


# --- full disks and missing rights


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_a_message_and_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = Run(tmp_path)
    finish(run, "old")

    def full(_: int) -> None:
        raise error

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="no space left") as caught:
        finish(run, "new")
    assert "RUNS=/other/disk" in caught.value.fix
    assert (tmp_path / "stage" / "inner" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["stage"]


def test_a_full_disk_while_the_data_stage_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text('[{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d"}]')
    source = {"path": str(tmp_path / "a.json")}
    config = Config.model_validate({"name": "t", "model": {"base": "x"}, "data": {"sources": [source]}})
    run = Run(tmp_path / "runs")
    stage.build(config, run)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stage, "write_text", full)
    with pytest.raises(UserError, match="no space left"):
        stage.build(config, run)
    assert len(load_examples(run, "train")) == 2
    assert names(run.root) == ["dataset"]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        write_text(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_missing_rights_are_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "runs"))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    for act in (lambda: finish(Run(tmp_path / "runs"), "a"), lambda: make_folder(tmp_path / "runs")):
        with pytest.raises(UserError, match="Permission denied") as caught:
            act()
        assert caught.value.where == str(tmp_path / "runs")


def test_a_file_in_the_way_of_the_run_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    run = Run(tmp_path / "runs" / "t")
    with pytest.raises(UserError, match="in the way"):
        finish(run, "a")
    with pytest.raises(UserError, match="in the way"), run.lock():
        pass


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="stale"), replace_folder(tmp_path / "a"):
        raise OSError(errno.ESTALE, "stale")


def test_need_space(tmp_path: Path) -> None:
    need_space(tmp_path / "not" / "there", 1, "this")
    with pytest.raises(UserError, match="GB of disk"):
        need_space(tmp_path / "not" / "there", 10**18, "this")


# --- JSON


def test_json_round_trips_with_half_characters(tmp_path: Path) -> None:
    value = {"안녕": ["😀", "\ud800", "\u2028"]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    write_json(tmp_path / "a.json", {"안녕": 1})
    assert "안녕" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"\x00"])
def test_damaged_json_reads_as_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path / "missing.json") is None


# --- manifests


def test_manifest(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.manifest("stage") is None
    assert run.result("stage") == "missing"
    finish(run, "a")
    manifest = run.manifest("stage")
    assert manifest is not None
    assert manifest["counts"] == {"rows": 3}
    assert manifest["files"]["inner/a.txt"]["bytes"] == 1
    assert manifest["versions"]["suri"]


def test_up_to_date(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert not run.is_current("stage", KEY)
    finish(run, "a")
    assert run.is_current("stage", KEY)  # also though JSON has made a list of the tuple in the key
    assert not run.is_current("stage", {**KEY, "version": 2})
    (tmp_path / "stage" / "inner" / "a.txt").write_text("longer")
    assert not run.is_current("stage", KEY)
    (tmp_path / "stage" / "inner" / "a.txt").unlink()
    assert not run.is_current("stage", KEY)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": {}}', '{"key": 1, "files": 2}', "\x00"])
def test_a_damaged_manifest_is_none(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    finish(run, "a")
    (tmp_path / "stage" / "manifest.json").write_text(text)
    assert run.manifest("stage") is None
    assert not run.is_current("stage", KEY)
    assert run.result("stage") == "missing"


def test_a_flipped_bit_in_a_manifest_is_damage(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finish(run, "a")
    path = tmp_path / "stage" / "manifest.json"
    text = path.read_text()
    for old, new in (('"bytes"', '"bytds"'), ('"sha256"', '"sha252"'), ('"version": 1', '"version": 3')):
        path.write_text(text.replace(old, new, 1))
        assert text != path.read_text()
        assert run.manifest("stage") is None
        assert not run.is_current("stage", KEY)


def test_results_follow_content(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finish(run, "a")
    first = run.result("stage")
    finish(run, "a")
    assert run.result("stage") == first
    finish(run, "b")
    assert run.result("stage") != first


def test_the_result_is_what_later_stages_see(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def built(key: int, rows: str, rejected: str, **counts: object) -> str:
        with run.writing("dataset", {"key": key}) as output:
            (output.folder / "train.jsonl").write_text(rows)
            (output.folder / "rejected.jsonl").write_text(rejected)
            output.counts.update(counts)
        return run.result("dataset")

    first = built(1, "a", "b", rehearsal=[])
    assert first != "missing"
    assert built(2, "a", "c", rehearsal=[], read=7) == first
    assert built(2, "b", "c", rehearsal=[]) != first
    assert built(2, "a", "c", rehearsal=["web"]) != first  # EWC takes rows of these sources, and no file names them


def test_results_in_an_older_form_are_still_known(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.writing("tokens", {"version": 1}) as output:
        write_text(output.folder / "train.arrow", "x")
    manifest = run.manifest("tokens")
    assert manifest is not None
    with run.writing("adapter", {"tokens": files.sha256_json([manifest["key"], manifest["files"]])}):
        pass
    assert run.is_current("adapter", {"tokens": run.result("tokens")})
    with run.writing("tokens", {"version": 2}) as output:
        write_text(output.folder / "train.arrow", "y")
    assert not run.is_current("adapter", {"tokens": run.result("tokens")})


def test_input_hashes_ignore_a_mere_touch(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = input_hashes([path])
    os.utime(path, ns=(1, 1))
    assert input_hashes([path]) == before
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert input_hashes([path])[str(path)]["sha256"] != before[str(path)]["sha256"]


def test_times_in_an_older_key_make_nothing_stale(tmp_path: Path) -> None:
    run, path = Run(tmp_path / "run"), tmp_path / "a"
    path.write_text("one")
    inputs = input_hashes([path])
    with run.writing("dataset", {"inputs": {str(path): {**inputs[str(path)], "mtime": 12345}}}):
        pass
    assert run.is_current("dataset", {"inputs": inputs})
    path.write_text("two")
    assert not run.is_current("dataset", {"inputs": input_hashes([path])})


def test_runs_moves_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, root in (("/big/disk", "/big/disk/a"), ("", "runs/a")):
        monkeypatch.setenv("RUNS", value)
        assert Run.of("a").root == Path(root)
    monkeypatch.delenv("RUNS")
    assert Run.of("a").root == Path("runs/a")


# --- the lock

HOLD = """
import sys, time
from pathlib import Path
from pipeline.run.folder import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.root)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}") as caught, run.lock():
            pass
        assert caught.value.where == str(run.root)
        assert "name=other" in caught.value.fix
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (run.root / ".lock").exists()
    for _ in range(2):
        with run.lock():
            assert (run.root / ".lock").read_text() == str(os.getpid())


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass
