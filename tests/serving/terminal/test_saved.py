"""What `/save` writes, and where it writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.run.errors import UserError
from pipeline.serving.terminal.saved import path_of, save

ROWS = [{"messages": [{"role": "user", "content": "안녕 \ud800"}]}]
LINE = b'{"messages": [{"role": "user", "content": "\\uc548\\ub155 \\ud800"}]}\n'


def test_a_new_file_and_more_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert save(ROWS, path) is False
    assert path.read_bytes() == LINE
    assert save(ROWS, path) is True
    assert path.read_bytes() == LINE * 2
    path.write_bytes(b'{"a": 1}')  # without a line break at its end
    save(ROWS, path)
    assert path.read_bytes() == b'{"a": 1}\n' + LINE
    path.write_bytes(b"")
    save(ROWS, path)
    assert path.read_bytes() == LINE


@pytest.mark.parametrize(
    "content", [b"a: 1\n", b'[{"a": 1}]', b'{"a": 1}\nnot json\n', b"\x00\xff", b'[\n{"a": 1}\n]\n']
)
def test_a_file_that_holds_something_else_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="it stays as it is"):
        save(ROWS, path)
    assert path.read_bytes() == content


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "file")
    for name in ("folder", "pipe", "dangling", "missing/a.jsonl", "folder/" + "x" * 300, "a\0b"):
        with pytest.raises(UserError):
            save(ROWS, tmp_path / name)
    with pytest.raises(UserError, match="cannot be written"):
        path_of("~no-such-user-here/x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "folder", "pipe"]
