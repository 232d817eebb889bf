"""Rows go together in pieces of bounded size, counted by what is written as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Source
from pipeline.dataset import chunk
from pipeline.dataset.read.conversation import HISTORY

ROW = {"instruction": "abc", "input": "", "output": "de", "n": [1, None]}


def turns(number: int) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": "word"} for i in range(number)]


def sizes(path: Path, rows: list[Any]) -> list[int]:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return [len(piece.raws) for piece in chunk.chunks(0, Source(path=str(path)), 0)]


def test_characters_of_a_row_and_of_what_it_becomes() -> None:
    assert chunk._characters(ROW) == 5
    assert chunk._characters("abc") == 3
    assert chunk._characters({"messages": turns(2)}) == len("userassistantwordword")
    read = len("userassistantwordword") * 1000
    assert read == 21_000
    for messages in (turns(2000), json.dumps(turns(2000))):
        written = chunk._characters({"messages": messages}) - len(messages if isinstance(messages, str) else "x" * read)
        assert written == 1000 * (HISTORY + len("userword"))
    under = {"system": "s" * 500, "messages": turns(4)}
    assert chunk._characters(under) - chunk._characters({"messages": turns(4)}) == 500 + 2 * 500


def test_pieces_are_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes(tmp_path / "a.jsonl", [ROW] * 2001) == [1000, 1000, 1]
    assert sizes(tmp_path / "b.jsonl", [{"messages": turns(2000)}] * 3) == [1, 1, 1]
    monkeypatch.setattr(chunk, "CHARACTERS", 9)
    assert sizes(tmp_path / "c.jsonl", [ROW] * 5) == [2, 2, 1]
