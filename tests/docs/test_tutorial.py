"""docs/tutorial.md and its Korean twin: the same commands in both, and each does what the text says."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.checkout import ROOT, copy_of_checkout
from tests.helpers.tutorial import Block, Reader, blocks, shape

ENGLISH, KOREAN = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.ko.md"


def of(file: Path) -> list[Block]:
    return blocks(file.read_text(encoding="utf-8"))


def test_both_languages_have_the_same_blocks() -> None:
    assert [(b.info, b.body) for b in of(KOREAN)] == [(b.info, b.body) for b in of(ENGLISH)]


def test_both_languages_have_the_same_sections() -> None:
    headings = [re.findall("^#+ ", file.read_text(encoding="utf-8"), re.M) for file in (ENGLISH, KOREAN)]
    assert headings[0] == headings[1]


def test_every_block_can_be_read() -> None:
    infos = {"sh", "sh interrupt", "yaml", "python", "text", "text example"}
    for block in of(ENGLISH):
        assert block.info in infos, block.line
        if block.info == "yaml":
            assert block.path
            assert isinstance(yaml.safe_load(block.body), dict)
        elif block.info == "python":
            assert block.path
            ast.parse(block.body)
        elif block.info.startswith("sh"):
            subprocess.run(["bash", "-n", "-c", block.body], check=True)


@pytest.mark.parametrize("file", [ENGLISH, KOREAN])
def test_files_that_it_links_to_are_there(file: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", file.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (file.parent / link).exists()] == []


def test_numbers_of_a_line_do_not_count() -> None:
    assert shape("train: step 30:  loss 1.25e-4, 1,024 rows") == shape("train: step 7: loss 2, 8 rows")
    assert shape("train: step 30") != shape("eval: step 30")


@pytest.mark.slow
def test_every_line_does_what_it_says(tmp_path: Path) -> None:
    folder = copy_of_checkout(tmp_path / "checkout")
    reader = Reader(folder, folder / "runs" / "shop" / "metrics.jsonl")
    for block in of(ENGLISH):
        reader.follow(block)
