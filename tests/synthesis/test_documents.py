"""Text, Markdown and HTML as blocks; what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.run.errors import UserError
from pipeline.synthesis.documents import text_file, web_page
from pipeline.synthesis.documents.block import Block, Unreadable
from pipeline.synthesis.documents.read import files_of, read
from tests.helpers.pdf_files import pdf

SENTENCE = "한글은 1443년 세종대왕이 창제하여 1446년에 반포한 문자이다."
PAGE = f"""<!doctype html><html><head><title>x</title><style>p {{}}</style></head><body>
<nav><a href="/">홈</a></nav><main><h1>한글의 <em>역사</em></h1>
<p>{SENTENCE}<br>둘째 줄
<p>A &lt; B &amp; C<script>var x = "p";</script>
<ul><li>하나<li>둘 <b>셋</b></ul><table><tr><th>연도<th>사건<tr><td>1446<td>반포</table>
<pre>def f():
    return 1</pre><p hidden>no</p></main><footer>(c)</footer></body></html>"""


def texts(blocks: list[Block]) -> list[tuple[str, int]]:
    return [(block.text, block.level) for block in blocks]


def test_html() -> None:
    blocks = web_page.blocks(PAGE)
    assert texts(blocks) == [
        ("한글의 역사", 1),
        (f"{SENTENCE}\n둘째 줄", 0),
        ("A < B & C", 0),
        ("- 하나\n- 둘 셋", 0),
        ("연도 | 사건\n1446 | 반포", 0),
        ("def f():\n    return 1", 0),
    ]
    assert [block.place for block in blocks[:3]] == ["line 2", "line 3", "line 4"]


def test_html_without_a_main_part() -> None:
    page = "<h2>A</h2>text <b>bold</b><div>one</div>two<aside>no</aside></p></div>"
    assert texts(web_page.blocks(page)) == [("A", 2), ("text bold", 0), ("one", 0), ("two", 0)]
    two = "<article><p>one</p></article><article><p>two</p></article><p>three"
    assert texts(web_page.blocks(two)) == [("one", 0), ("two", 0), ("three", 0)]


def test_html_that_is_none() -> None:
    with pytest.raises(Unreadable, match="nested more than"):
        web_page.blocks("<div>" * 5000)
    for page in ("<!DOCTYPE [", "<a <b <c", "</p></p>", "<td><tr><li><dd>", "<p hidden><p>a", "&#xFFFFFFFF;", "<"):
        web_page.blocks(page)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (f'<meta charset="euc-kr"><p>{SENTENCE}'.encode("cp949"), SENTENCE),
        (f'<meta charset="euc-kr"><p>{SENTENCE}'.encode(), SENTENCE),
        (f'<META CONTENT="text/html; charset=ks_c_5601-1987">{SENTENCE}'.encode("cp949"), SENTENCE),
        (f"<p>{SENTENCE}".encode("utf-16"), SENTENCE),
        ("<p>café".encode("utf-8-sig"), "café"),
        (b'<meta charset="iso-8859-1">caf\xe9 \x93x\x94', "café “x”"),
    ],
)  # fmt: skip
def test_encodings_of_html(data: bytes, text: str) -> None:
    assert text in web_page.decoded(data)


def test_html_in_no_encoding_that_it_names() -> None:
    with pytest.raises(Unreadable, match="it looks like CP949"):
        web_page.decoded(f"<p>{SENTENCE}".encode("cp949"))
    with pytest.raises(Unreadable, match="it names"):
        web_page.decoded(f'<meta charset="nonsense">{SENTENCE}'.encode("cp949"))


def test_markdown() -> None:
    text = "---\ntitle: x\n---\n# A #\ntext\nmore\n\n```py\n# no heading\n\nx\n```\n"
    text += "B\n---\n- a\n- b\n<!-- no\n\nno -->\nend"
    blocks = text_file.blocks(text, is_markdown=True)
    assert texts(blocks) == [
        ("A", 1),
        ("text\nmore", 0),
        ("```py\n# no heading\n\nx\n```", 0),
        ("B", 2),
        ("- a\n- b", 0),
        ("end", 0),
    ]
    assert [block.place for block in blocks] == ["line 4", "line 5", "line 8", "line 13", "line 15", "line 20"]


def test_plain_text_has_no_headings() -> None:
    assert texts(text_file.blocks("# A\nb\n\n\n  c\n---\n", is_markdown=False)) == [("# A\nb", 0), ("  c\n---", 0)]
    unclosed = text_file.blocks("```\na\n\nb", is_markdown=True)
    assert texts(unclosed) == [("```\na\n\nb", 0)]


def write(folder: Path, name: str, data: str | bytes = SENTENCE) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_folders_globs_and_files_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.txt", "a.md", "in/c.HTML", ".hidden/d.txt", "in/.e.txt", "in/style.css", "f.png"):
        write(tmp_path, name)
    found = files_of([str(tmp_path), str(tmp_path / "*.txt"), str(tmp_path / "a.md")])
    assert [path.name for path in found] == ["a.md", "b.txt", "c.HTML"]
    documents = read([str(tmp_path)])
    assert [document.path.name for document in documents] == ["a.md", "b.txt", "c.HTML"]
    assert "left out: 1 x .png, 1 x .css" in capsys.readouterr().out


def test_a_file_that_is_named_is_read_whatever_its_name(tmp_path: Path) -> None:
    assert read([str(write(tmp_path, "notes"))])[0].blocks[0].text == SENTENCE
    assert read([str(write(tmp_path, "page.php", f"<html><h1>A</h1>{SENTENCE}"))])[0].blocks[0].level == 1


@pytest.mark.parametrize(
    ("names", "what"),
    [(["none.txt"], "no such document"), (["*.md"], "no document in"), (["empty"], "no document in")],
)
def test_documents_that_are_not_there(tmp_path: Path, names: list[str], what: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path, "nine.txt")
    with pytest.raises(UserError, match=what):
        files_of([str(tmp_path / name) for name in names])


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\n ---", "no text in it"),
        ("a.txt", SENTENCE.encode("cp949"), "not UTF-8; it looks like CP949: iconv -f CP949 -t UTF-8"),
        ("a.txt", SENTENCE.encode("utf-16"), "not UTF-8; it looks like UTF-16"),
        ("a.txt", bytes(range(256)), "not text"),
        ("a.txt", b"abc\0def", "not text: it holds zero bytes"),
        ("a.hwp", b"\xd0\xcf\x11\xe0", ".hwp is not read; save it as PDF or text"),
        ("a.docx", b"PK\x03\x04", ".docx is not read"),
        ("a.pdf", SENTENCE.encode(), "no PDF, though it is called so"),
        ("a.html", b"<html><script>x</script></html>", "no text in it"),
    ],
)
def test_documents_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    path = write(tmp_path, name, data)
    with pytest.raises(UserError) as error:
        read([str(path)])
    assert f"{path}: {problem}" in error.value.what
    assert error.value.where == "synthesis.documents"


def test_all_that_cannot_be_read_are_one_message(tmp_path: Path) -> None:
    for number in range(7):
        write(tmp_path, f"{number}.txt", b"")
    write(tmp_path, "good.txt")
    with pytest.raises(UserError, match="7 of 8 documents cannot be read") as error:
        read([str(tmp_path)])
    assert "and 2 more" in error.value.what


def test_pdf_without_its_package_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.synthesis.documents.read.find_spec", lambda name: None)
    path = write(tmp_path, "a.bin", pdf([[SENTENCE]]))
    with pytest.raises(UserError, match="pypdfium2") as error:
        read([str(path)])
    assert error.value.where == "extra documents"
    assert read([str(write(tmp_path, "a.txt"))])
