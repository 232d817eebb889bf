"""The pages on several cards: tables are what the command beside them prints, and both languages have the same ones."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from scripts.benchmarks import scaling_table

ROOT = Path(__file__).parents[2]
ENGLISH, KOREAN = (ROOT / "docs" / name for name in ("scaling.md", "scaling.ko.md"))
COMMANDS = re.findall(
    r"^\.venv/bin/python -m scripts\.benchmarks\.scaling_table (.+)$", ENGLISH.read_text(), re.MULTILINE
)


@pytest.mark.parametrize("words", COMMANDS)
def test_tables_are_what_the_command_prints(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["scaling_table", *shlex.split(words)])
    scaling_table.main()
    steps, worth = capsys.readouterr().out.strip().split("\n\n")
    after = ENGLISH.read_text().partition(words)[2]
    assert after.index(steps) < after.index(worth) < 3000
    assert words in KOREAN.read_text()


def numbers(page: Path) -> list[list[str]]:
    """Of every cell of every table that is a number."""
    rows = [line.strip("|").split("|") for line in page.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row if re.fullmatch(r"[\d,.]+ ?%?", cell.strip())] for row in rows]
    return [row for row in cells if row]


def test_both_languages_have_the_same_numbers_and_sections() -> None:
    assert numbers(ENGLISH) == numbers(KOREAN)
    shapes = [
        [len(mark) for mark in re.findall(r"^(#+) ", page.read_text(), re.MULTILINE)] for page in (ENGLISH, KOREAN)
    ]
    assert shapes[0] == shapes[1]
    assert len(COMMANDS) == 2
