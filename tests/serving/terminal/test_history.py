"""The file of what was typed: private, bounded, and never in the way."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from pipeline.serving.terminal.history import LONGEST, MOST, History


def test_entries_come_back(tmp_path: Path) -> None:
    path = tmp_path / "chat" / "history.jsonl"
    first = History(path)
    for entry in ("one", "two\nlines", "two\nlines", "", "한글 \x1b[31m", "x" * (LONGEST + 1)):
        first.add(entry)
    assert History(path).entries == ["one", "two\nlines", "한글 \x1b[31m"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_old_entries_are_dropped_and_damage_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    lines = [json.dumps(f"entry {n}") for n in range(2 * MOST)]
    path.write_text("\n".join([*lines, "{not json", "7", '"last"']) + "\n")
    path.chmod(0o644)
    entries = History(path).entries
    assert entries[-1] == "last"
    assert len(entries) == MOST
    assert len(path.read_text().splitlines()) == MOST
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_something_else_in_its_place(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text('"kept"\n')
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    os.link(target, tmp_path / "hard")
    for name in ("link", "pipe", "hard", ".", "precious/below"):
        kept = History(tmp_path / name)
        kept.add("typed")
        assert kept.entries == ["typed"]
    assert target.read_text() == '"kept"\n'


def test_it_is_under_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURI_CACHE", str(tmp_path))
    assert History.here().path == tmp_path / "chat" / "history.jsonl"
