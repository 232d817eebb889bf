"""PDF as blocks, with Korean text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.run.errors import UserError
from pipeline.synthesis.documents import pdf_file
from pipeline.synthesis.documents.block import Unreadable
from pipeline.synthesis.documents.read import read
from tests.helpers.pdf_files import pdf

pytestmark = pytest.mark.documents
pytest.importorskip("pypdfium2", reason="needs the extra `documents`")
LINES = [
    "한글은 1443년 세종대왕이 창제하여 1446년에 반포한 문자이며 처음에는",
    "훈민정음이라고 불렸다. 자음 17자와 모음 11자로 이루어져 있었고 오늘날",
    "에는 자음 14자와 모음 10자를 쓴다.",
    "1933년 조선어학회가 한글 맞춤법 통일안을 발표하였고 이 안은 오늘날",
    "맞춤법의 바탕이 되었다.",
]


def write(folder: Path, data: bytes, name: str = "a.pdf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_korean_lines_are_joined_to_paragraphs(tmp_path: Path) -> None:
    blocks = pdf_file.blocks(write(tmp_path, pdf([LINES])))
    assert [block.text for block in blocks] == ["\n".join(LINES[:3]), "\n".join(LINES[3:])]
    assert [block.place for block in blocks] == ["page 1", "page 1"]


def test_a_paragraph_may_go_on_on_the_next_page(tmp_path: Path) -> None:
    blocks = pdf_file.blocks(write(tmp_path, pdf([LINES[:4], LINES[4:]])))
    assert [block.text for block in blocks] == ["\n".join(LINES[:3]), "\n".join(LINES[3:])]
    assert [block.place for block in blocks] == ["page 1", "page 1"]


def test_heads_and_page_numbers_are_left_out(tmp_path: Path) -> None:
    pages = [
        ["한글의 역사", word, f"{word} 세종대왕이 만들었다.", f"{word} 뜻이다.", f"- {n} -"]
        for n, word in enumerate("가나다라")
    ]
    text = "\n".join(block.text for block in pdf_file.blocks(write(tmp_path, pdf(pages))))
    assert "한글의 역사" not in text
    assert "- 3 -" not in text
    assert "세종대왕" in text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (pdf([LINES], is_encrypted=True), "encrypted; remove its password"),
        (pdf([[]]), "perhaps a scan; run OCR"),
        (pdf([LINES])[:300], "damaged, or no PDF"),
        (b"%PDF-1.4\n" + bytes(500), "damaged, or no PDF"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, data: bytes, problem: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(Unreadable, match=problem):
        pdf_file.blocks(path)
    write(tmp_path, pdf([LINES]), "good.pdf")
    with pytest.raises(UserError, match="1 of 2 documents cannot be read") as error:
        read([str(tmp_path)])
    assert str(path) in error.value.what


def test_letters_without_a_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_file, "_texts", lambda path: ["\ue000\ue001\ue002abcdefghijklmn"])
    with pytest.raises(Unreadable, match="do not say which letters"):
        pdf_file.blocks(tmp_path)


def test_too_many_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_file, "MOST_PAGES", 1)
    with pytest.raises(Unreadable, match="2 pages"):
        pdf_file.blocks(write(tmp_path, pdf([LINES, LINES])))
