"""The rule on text that was decoded in the wrong encoding."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import FIELDS, Finding, Texts

# The bytes 80 to 9F in Windows-1252; its five undefined codes stay C1 controls, as in Latin-1.
SIGNS = {bytes([byte]).decode("cp1252", errors="ignore"): chr(byte) for byte in range(0x80, 0xA0)}
TO_BYTES = {ord(sign): code for sign, code in SIGNS.items() if sign}
# Â or Ã and a character that does not follow it in real text (quotes, dashes and dots do), then the quotes and dashes
# of UTF-8, emoji, Hangul.
HANGUL_TAIL = "[\x80-\xbf" + "".join(re.escape(sign) for sign in SIGNS if sign) + "]"
EVIDENCE = re.compile(
    "[\u00c2\u00c3][\xa1-\xa9\xaa\xac-\xb3\xb5\xb6\xb8-\xba\xbc-\xbf\u20ac\u0192\u02c6\u2030\u0160\u0152\u0161\u0153"
    "\x80-\x9f]"
    "|\u00e2[\u20ac\x80][\u201c\u201d\u02dc\u2122\u0153\u009d\u00a6\u00a2\x90-\x9f]"
    "|\u00f0[\u0178\x9f]"
    f"|(?:[\u00ea-\u00ed]{HANGUL_TAIL}{{2}} ?){{2}}"
)
HANJA = re.compile("[\u4e00-\u9fff\uf900-\ufaff]")
SYLLABLE = re.compile("[\uac00-\ud7a3]")
# Pairs of Latin-1 letters that are Hangul in EUC-KR: two or more consecutive pairs, and all other characters ASCII.
EUC_KR = re.compile("(?:[\xb0-\xc8][\xa1-\xfe]){2}")
EUC_KR_TEXT = re.compile("(?:[\x00-\x7f]++|[\xa1-\xc8][\xa1-\xfe])*+")
LOST = "\ufffd\ufffd".encode().decode(
    "cp949"
)  # two replacement characters read as CP949; no other text looks like this
ABOUT = re.compile(r"mojibake|encod|decod|utf|character set|charset|인코딩|디코딩|문자 ?집합|깨진", re.I)


def mojibake(texts: Texts) -> Finding | None:
    """Text decoded in the wrong encoding: "cafÃ©" for "café", "¾È³ç" or "�덈뀞" for "안녕".

    UTF-8 read as Windows-1252, Latin-1 or CP949, and CP949 read as Latin-1. A field is fixed if encoding it back gives
    valid text; otherwise, or if Hangul was lost, the row is rejected. Rows about encodings are left alone.
    Misses: a single wrong character such as "Â " before a space, and other encodings (KOI8, Shift-JIS, Big5).
    Source: own; encoding back is the method of ftfy (Robyn Speer), which does not cover CP949.
    """
    if texts.output.isascii() and texts.input.isascii() and texts.instruction.isascii():
        return None
    fixed, where, at = texts, "", 0
    for field in FIELDS:
        text = getattr(texts, field)
        misread = None if text.isascii() else _misread(text)
        if misread is None:
            continue
        repaired, at = misread
        if ABOUT.search(texts.asked):
            return None
        if repaired is None:
            return Finding(f"{field} was read in the wrong coding and cannot be read back", None, field, at)
        fixed, where = fixed._replace(**{field: repaired}), field
    return Finding(f"{where} was read in the wrong coding", fixed, where, at) if where else None


def _misread(text: str) -> tuple[str | None, int] | None:
    """None for correct text, otherwise the repaired text (None if impossible) and the position of the evidence."""
    if LOST in text:
        return None, text.find(LOST)
    if evidence := EVIDENCE.search(text):
        back = _back(text, "cp1252", "utf-8") or _back(text.translate(TO_BYTES), "latin-1", "utf-8")
        return back, evidence.start()
    if (evidence := EUC_KR.search(text)) and EUC_KR_TEXT.fullmatch(text):
        back = _back(text, "latin-1", "euc-kr")
        if back and len(SYLLABLE.findall(back)) >= 3:
            return back, evidence.start()
    if evidence := HANJA.search(text):
        back = _back(text, "cp949", "utf-8")
        if back and len(SYLLABLE.findall(back)) >= 2:
            return back, evidence.start()
    return None


def _back(text: str, wrong: str, right: str) -> str | None:
    try:
        return text.encode(wrong).decode(right)
    except UnicodeError:
        return None
