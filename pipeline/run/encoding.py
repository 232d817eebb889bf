"""Which encoding bytes are in that are not UTF-8, and text files read with one message where they are not.

CP949 (what Korean Windows writes) and UTF-16 (what Excel's "Unicode text" and PowerShell write) are common; a guess
by the letters that come out names them, so that the user knows what to convert from.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.run.errors import UserError

LARGEST = 64 << 20  # bytes of a text file that a person wrote: config, template, passages
LONGEST_LINE = 4 << 20  # bytes of a line on standard input
SAMPLE = 1 << 16  # bytes that a guess looks at
BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
PLAIN = re.compile("[\t\n\r -~가-힣]")
# By name for iconv: the letters that text in it has most of. The order is that of how surely they tell.
LETTERS = {
    "CP949": re.compile("[가-힣]"),
    "SHIFT_JIS": re.compile("[\u3040-\u30ff]"),
    "EUC-JP": re.compile("[\u3040-\u30ff]"),
    "GB18030": re.compile("[\u4e00-\u9fff]"),
}


def likely_encoding(data: bytes) -> str:
    """Name (as iconv knows it) of the encoding that these bytes, which are not UTF-8, look like; empty for none.

    Args:
        data: some of the bytes, from the beginning of a line on. The last character may be cut off.
    """
    data = data[:SAMPLE]
    for bom, name in BOMS.items():
        if data.startswith(bom):
            return name
    if 0 in data:
        coding = "UTF-16LE" if data[1::2].count(0) > data[::2].count(0) else "UTF-16BE"
        text = data[: len(data) // 2 * 2].decode(coding, "replace")
        return coding if len(PLAIN.findall(text)) * 5 >= len(text) * 4 else ""
    high = sum(byte > 127 for byte in data)
    for name, letters in LETTERS.items():
        if name != "CP949" and high * 3 < len(data):  # a few accents between ASCII letters
            break
        try:
            text = codecs.getincrementaldecoder(name)().decode(data)
        except UnicodeDecodeError:
            continue
        foreign = [c for c in text if ord(c) > 127]
        own = [c for c in foreign if letters.match(c) and (name != "CP949" or _is_common(c))]
        if own and len(own) * 2 >= len(foreign):
            return name
    return "WINDOWS-1252" if 0 < high < len(data) // 3 or high == 1 else ""


def _is_common(syllable: str) -> bool:
    """One of the 2,350 Hangul syllables of KS X 1001; bytes of other encodings give rare ones in CP949."""
    try:
        return bool(syllable.encode("euc_kr"))
    except UnicodeEncodeError:
        return False


def not_utf8(data: bytes) -> str:
    """`not UTF-8 text`, with the likely encoding, for an error's text."""
    name = likely_encoding(data)
    return "not UTF-8 text" + (f"; it looks like {name}" if name else "")


def conversion(data: bytes, name: str = "the file") -> str:
    """The command that makes UTF-8 of a file, for an error's fix."""
    coding = likely_encoding(data)
    return f"iconv -f {coding} -t UTF-8 {name} > NEW, or save it as UTF-8" if coding else f"save {name} as UTF-8"


def read_text(path: Path) -> str:
    """A text file that a person wrote; a byte order mark is left out, lines end in line feeds.

    Raises:
        UserError: not UTF-8 (with the line and the likely encoding), too large, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", str(path), "check the file's rights") from None
    if len(data) > LARGEST:
        raise UserError(f"larger than {LARGEST >> 20} MB", str(path), "is it the right file?")
    return decoded(data, str(path)).replace("\r\n", "\n").replace("\r", "\n")


def decoded(data: bytes, where: str) -> str:
    """UTF-8 as text.

    Raises:
        UserError: it is not; `where` and the line are in the message.
    """
    if not data.startswith(tuple(BOMS)):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            start = 0 if 0 in data[:4] else data.rfind(b"\n", 0, error.start) + 1
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(not_utf8(data[start:]), f"{where}:{line}", conversion(data[start:], where)) from None
        if "\0" not in text[:4]:
            return text
    raise UserError(not_utf8(data), where, conversion(data, where))


def lines(stream: Iterable[str], where: str = "standard input") -> Iterator[str]:
    """The lines of a stream of text, read as bytes where it has them; a byte order mark is left out.

    Raises:
        UserError: (while reading) a line is not UTF-8 text, with its number and the likely encoding, or it is too long.
    """
    binary = getattr(stream, "buffer", None)
    if binary is None:  # text that another program made
        yield from stream
        return
    number = 0
    while data := binary.readline(LONGEST_LINE + 1):
        number += 1
        place = f"{where}, line {number}"
        if len(data) > LONGEST_LINE:
            raise UserError(f"a line longer than {LONGEST_LINE >> 20} MB", place, "one question a line")
        try:
            text = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(not_utf8(data), place, conversion(data, "it")) from None
        if "\0" in text:
            what = not_utf8(data) if likely_encoding(data) else "not text: it holds zero bytes"
            raise UserError(what, place, conversion(data, "it"))
        yield text
