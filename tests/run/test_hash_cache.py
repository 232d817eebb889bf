"""Hashes of files, kept by size and times; and what a base is by content."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Model
from pipeline.model.base.identity import identity, settings, tokenizer_identity
from pipeline.run import hash_cache
from pipeline.run.files import sha256_file
from pipeline.run.hash_cache import cached_json_sha256, cached_sha256


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A cache of its own that keeps hashes of new files too; the files that were read."""
    files: list[Path] = []

    def counted(path: Path) -> str:
        files.append(path)
        return sha256_file(path)

    monkeypatch.setenv("SURI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "SETTLED", -10_000_000_000)
    monkeypatch.setattr(hash_cache, "sha256_file", counted)
    return files


def test_a_file_is_read_once(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    wanted = sha256_file(path)
    assert [cached_sha256(path) for _ in range(3)] == [wanted] * 3
    assert len(read) == 1
    os.utime(path, (1, 1))  # a touch: asked again, with the same answer
    assert (cached_sha256(path), len(read)) == (wanted, 2)
    assert (cached_sha256(path), len(read)) == (wanted, 2)
    (tmp_path / "b").symlink_to(path)
    assert (cached_sha256(tmp_path / "b"), len(read)) == (wanted, 2)


def test_other_bytes_under_the_same_size_and_time(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    first = cached_sha256(path)
    path.write_bytes(b"two")
    os.utime(path, ns=times)
    assert cached_sha256(path) == sha256_file(path) != first


def test_hashes_of_files_that_are_just_written_are_not_kept(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could change within the clock's tick."""
    monkeypatch.setattr(hash_cache, "SETTLED", 2_000_000_000)
    (tmp_path / "a").write_bytes(b"one")
    assert cached_sha256(tmp_path / "a") == cached_sha256(tmp_path / "a")
    assert len(read) == 2


@pytest.mark.parametrize("how", ["empty", "a list", "another hash", "a folder", "no rights"])
def test_a_damaged_cache_is_no_cache(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    wanted = cached_sha256(path)
    (entry,) = (tmp_path / "cache" / "hashes").iterdir()
    if how == "another hash":
        entry.write_text(entry.read_text().replace(wanted, "0" * 64))
    elif how == "a folder":
        entry.unlink()
        entry.mkdir()
    elif how == "no rights":
        monkeypatch.setenv("SURI_CACHE", "/proc/cache")
    else:
        entry.write_text({"empty": "", "a list": "[]"}[how])
    assert (cached_sha256(path), len(read)) == (wanted, 2)
    assert not list(tmp_path.rglob("*.tmp"))


def test_large_files_are_read_by_one_process_at_a_time(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hash_cache, "LARGE", 2)
    monkeypatch.setattr(hash_cache, "ANNOUNCED", 2)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            os._exit(0 if cached_sha256(path) == sha256_file(path) and len(read) <= 1 else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert cached_sha256(path) == sha256_file(path)
    assert read == []
    monkeypatch.setenv("SURI_CACHE", "/proc/cache")  # no lock can be taken there
    assert cached_sha256(path) == sha256_file(path)
    assert "hashing a" in " ".join(capsys.readouterr().out.split())


def test_json_goes_by_what_it_says(tmp_path: Path) -> None:
    def of(text: str) -> str:
        (tmp_path / "a.json").write_text(text)
        return cached_json_sha256(tmp_path / "a.json", ("x",))

    first = of('{"a": 1, "b": [1e-6, true]}')
    assert of('\ufeff{\n "b": [0.000001, true],\n "a": 1.0, "x": 5}') == first
    for other in ('{"a": 1, "b": [1e-6, 1]}', '{"a": 1}', '{"a": 1, "b": [1e-6, true]', "[" * 10**5, "1" * 5000):
        assert of(other) != first


# --- a base


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "base"))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def reformat(path: Path) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(values.items())), indent=7))


SAME = {
    "touch": lambda f: [os.utime(path, (1, 1)) for path in f.iterdir()],
    "layout": lambda f: [reformat(f / name) for name in ("config.json", "tokenizer.json", "tokenizer_config.json")],
    "writer": lambda f: edit(f / "config.json", transformers_version="4.28.1", _name_or_path="/home/me/llama"),
    "beside": lambda f: [(f / name).write_text("{}") for name in ("README.json", "notes.model", "trainer_state.json")],
    "other weights beside": lambda f: (f / "consolidated.safetensors").write_bytes(b"x"),
}
OTHER = {
    "settings": lambda f: edit(f / "config.json", rms_norm_eps=1e-3),
    "ends": lambda f: edit(f / "generation_config.json", eos_token_id=7),
    "special": lambda f: edit(f / "tokenizer_config.json", bos_token="</s>"),
    "tokens": lambda f: edit(f / "tokenizer.json", truncation={"max_length": 5}),
    "weights": lambda f: flip(f / "model.safetensors"),
}


def flip(path: Path) -> None:
    """One bit in the middle, under the same size and time."""
    data, times = bytearray(path.read_bytes()), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=times)


@pytest.mark.parametrize("how", SAME)
def test_what_a_base_does_not_depend_on(base: Path, folder: Path, how: str) -> None:
    SAME[how](folder)
    assert identity(Model(base=str(folder))) == identity(Model(base=str(base)))


@pytest.mark.parametrize("how", OTHER)
def test_what_a_base_depends_on(base: Path, folder: Path, how: str) -> None:
    OTHER[how](folder)
    theirs, ours = Model(base=str(base)), Model(base=str(folder))
    assert identity(ours) != identity(theirs)
    assert (tokenizer_identity(ours) == tokenizer_identity(theirs)) == (how == "weights")


def test_a_tokenizer_of_another_folder(base: Path, folder: Path, tmp_path: Path) -> None:
    own, other = Model(base=str(base)), Model(base=str(base), tokenizer=str(folder))
    assert identity(own) == identity(other)  # a copy of its own
    edit(folder / "tokenizer_config.json", bos_token="</s>")
    assert identity(own) != identity(other)


def test_settings_say_nothing_of_places() -> None:
    a, b = Model(base="a", tokenizer="b", revision="c"), Model(base="d")
    assert settings(a) == settings(b) != settings(Model(base="a", quantize="nf4"))
