"""Documents cut into passages."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.synthesis.documents.block import Block
from pipeline.synthesis.documents.read import Document
from pipeline.synthesis.passages import Passage, passages

WORDS = (
    "한글은",
    "세종",
    "대왕이",
    "글자로",
    "자음과",
    "모음을",
    "적기에",
    "알맞다",
    "the",
    "letters",
    "of",
    "words",
    "are",
)


def paragraph(number: int, sentences: int = 3) -> str:
    draw = random.Random(number)
    return " ".join(" ".join(draw.choices(WORDS, k=8)) + "." for _ in range(sentences))


def document(*blocks: str | tuple[str, int], name: str = "a.md") -> Document:
    made = [
        Block(block, f"line {n}") if isinstance(block, str) else Block(block[0], f"line {n}", block[1])
        for n, block in enumerate(blocks, 1)
    ]
    return Document(Path(name), tuple(made))


def keys(*documents: Document, longest: int = 600) -> list[str]:
    return [passage.key for passage in passages(documents, longest)]


def test_headings_begin_passages() -> None:
    one, two, three = paragraph(1, 6), paragraph(2, 6), paragraph(3, 6)
    found = passages([document(("A", 1), one, ("B", 2), two, ("C", 2), three)], 600)
    assert [(p.text, p.headings, p.place) for p in found] == [
        (one, ("A",), "line 2"),
        (two, ("A", "B"), "line 4"),
        (three, ("A", "C"), "line 6"),
    ]


def test_short_sections_are_joined_under_the_heading_that_they_share() -> None:
    long = paragraph(1, 8)
    found = passages([document(("A", 1), ("B", 2), "짧은 글이다.", ("C", 2), "이것도 짧다.", ("D", 2), long)], 600)
    assert found[0].headings == ("A",)
    assert found[0].text.startswith("B\n\n짧은 글이다.\n\nC\n\n이것도 짧다.\n\nD\n\n")
    assert {p.headings for p in found[1:]} <= {("A", "D")}


def test_passages_hold_the_whole_text_and_are_no_longer_than_asked() -> None:
    blocks = [paragraph(n, 1 + n % 5) for n in range(200)]
    blocks += ["".join(chr(0xAC00 + n) for n in range(5000)), " ".join(f"{n}th" for n in range(900))]
    found = passages([document(*blocks)], 600)
    assert max(len(p.text) for p in found) <= 600
    assert "".join("".join(p.text.split()) for p in found) == "".join("".join(b.split()) for b in blocks)
    assert sum(len(p.text) for p in found) / len(found) > 300


@pytest.mark.parametrize("headings", [False, True])
def test_a_changed_paragraph_changes_only_passages_near_it(headings: bool) -> None:
    blocks: list[str | tuple[str, int]] = []
    for n in range(300):
        blocks += [(f"Heading {n}", 2)] if headings and n % 7 == 0 else []
        blocks.append(paragraph(n))
    before = keys(document(*blocks))
    paragraphs = [n for n, block in enumerate(blocks) if isinstance(block, str)]
    changed, more = [], []
    for n in paragraphs[5:295:29]:
        edited = [*blocks[:n], "New words here. " + str(blocks[n]), *blocks[n + 1 :]]
        changed.append(len(set(keys(document(*edited))) - set(before)))
        longer = [*blocks[:n], paragraph(1000 + n), *blocks[n:]]
        more.append(len(set(keys(document(*longer))) - set(before)))
    assert len(before) > 60
    assert sum(changed) / len(changed) < 2.5
    assert sum(more) / len(more) < 4


def test_a_document_more_adds_its_passages_only() -> None:
    one = document(*(paragraph(n) for n in range(20)))
    two = document(*(paragraph(n) for n in range(50, 60)), name="b.md")
    assert keys(two, one) == keys(two) + keys(one)
    assert keys(one, document(*(paragraph(n) for n in range(20)), name="copy.md")) == keys(one)


def test_passages_without_enough_letters_are_left_out() -> None:
    assert passages([document("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", ("Only a heading", 1))], 600) == []


def test_key_and_document() -> None:
    passage = Passage("text", ("A",), "a.md", "line 1")
    assert passage.key == Passage("text", ("A",), "b.md", "line 9").key
    assert passage.key != Passage("text", ("B",), "a.md", "line 1").key
    (found,) = passages([document(paragraph(1), name="/somewhere/else/a.md")], 600)
    assert found.document == "a.md"
    (found,) = passages([document(paragraph(1), name="docs/./a.md")], 600)
    assert found.document == "docs/a.md"
