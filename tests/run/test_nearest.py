"""Hints for misspelt words, and errors of libraries on one line."""

from __future__ import annotations

from pathlib import Path

from pipeline.run.errors import one_line
from pipeline.run.nearest import closest, nearest, nearest_file


def test_the_nearest_name_or_what_to_do_otherwise() -> None:
    assert nearest("lroa", ["lora", "full"]) == "did you mean lora?"
    assert nearest("xyz", ["lora", "full"], "there is lora, full") == "there is lora, full"
    assert closest("addd", ["add", "adds", "sort"], most=2) == ["add", "adds"]
    assert closest("ad", ["add"], alike=0.9) == []


def test_a_pasted_text_is_no_name() -> None:
    assert closest("a" * 10**6, ["a" * 10**6, "b"]) == []


def test_the_nearest_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").touch()
    (tmp_path / "dmo.txt").touch()
    assert nearest_file(tmp_path / "dem.yaml", pattern="*.yaml") == f"did you mean {tmp_path / 'demo.yaml'}?"
    assert nearest_file(tmp_path / "missing" / "demo.yaml", "give a path") == "give a path"


def test_an_error_on_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError("abc"), 2) == "ab"
    assert one_line(KeyError("size")) == "KeyError: 'size'"
    assert one_line(AssertionError()) == "AssertionError"
