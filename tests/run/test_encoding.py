"""Text that is not UTF-8: one message with the line and the encoding that it looks like."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.config.load import load
from pipeline.prompt import general_text
from pipeline.run import encoding
from pipeline.run.errors import UserError
from pipeline.serving.questions import read_questions

KOREAN = "질문: 서울은 어디에 있나요? (Seoul)\n"
CODINGS = {"cp949": "CP949", "utf-16": "UTF-16", "utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE", "utf-32": "UTF-32"}


@pytest.mark.parametrize("coding", CODINGS)
def test_korean_text_is_told(coding: str) -> None:
    assert encoding.likely_encoding(KOREAN.encode(coding)) == CODINGS[coding]
    assert encoding.likely_encoding(KOREAN.encode(coding)[:-1]) == CODINGS[coding]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("café au lait".encode("latin-1"), "WINDOWS-1252"),
        ("naïve".encode("latin-1"), "WINDOWS-1252"),
        ("こんにちは".encode("euc_jp"), "EUC-JP"),
        (bytes(range(256)), ""),
        (b"\xff" * 20, ""),
        (b"abcdef\0", ""),
    ],
)
def test_other_bytes(data: bytes, name: str) -> None:
    assert encoding.likely_encoding(data) == name


@pytest.mark.parametrize("coding", ["cp949", "utf-16", "utf-16-le"])
def test_a_config_in_another_encoding(tmp_path: Path, coding: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes("name: a\n# 설명입니다\n".encode(coding))
    with pytest.raises(UserError, match=f"not UTF-8.*{CODINGS[coding]}") as caught:
        load(path)
    assert str(path) in caught.value.where
    assert caught.value.where.endswith(":2") or coding != "cp949"


def test_text_for_forgetting_in_cp949(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(("fine\n" + KOREAN).encode("cp949"))
    with pytest.raises(UserError, match="CP949") as caught:
        general_text.read_passages(tmp_path / "x.txt")
    assert caught.value.where.endswith("x.txt:2")


def stdin(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")


@pytest.mark.parametrize("coding", ["cp949", "utf-16", "utf-16-le"])
def test_questions_in_another_encoding(coding: str) -> None:
    with pytest.raises(UserError, match=CODINGS[coding]) as caught:
        read_questions(stdin(f"base: {KOREAN}".encode(coding)))
    assert "line 1" in caught.value.where
    with pytest.raises(UserError, match="CP949") as caught:
        read_questions(stdin(b"base: fine\n" + f"base: {KOREAN}".encode("cp949")))
    assert "line 2" in caught.value.where


def test_lines_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(encoding.lines(stdin(b"\xef\xbb\xbfa\n\xea\xb0\x80"))) == ["a\n", "가"]
    monkeypatch.setattr(encoding, "LONGEST_LINE", 8)
    assert list(encoding.lines(stdin(b"12345678"))) == ["12345678"]
    with pytest.raises(UserError, match="longer"):
        list(encoding.lines(stdin(b"123456789\n")))


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("\r\na")
    assert encoding.read_text(tmp_path / "a") == "\na"
    monkeypatch.setattr(encoding, "LARGEST", 2)
    with pytest.raises(UserError, match="larger"):
        encoding.read_text(tmp_path / "a")
