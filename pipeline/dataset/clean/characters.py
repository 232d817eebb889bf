"""Rules on single characters: invisible controls, unresolved escapes, lost characters."""

from __future__ import annotations

import html
import re

from pipeline.dataset.clean.finding import FIELDS, Finding, Texts

LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# C0 and C1, soft hyphen, Mongolian vowel separator, bidi embeddings and isolates, word joiner and invisible
# operators, deprecated format marks, interlinear marks, BOM.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u180e\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]"
)
TAGS = re.compile("[\U000e0000-\U000e007f]")
FLAG = "\U0001f3f4"  # the black flag; tag characters after it make the flag of a region
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
MARKS = re.compile("[\u200e\u200f\u061c]")
SPACE_NEEDED = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai to Khmer write no space between words
ZERO_SPACE = re.compile(f"(?<![{SPACE_NEEDED}])\u200b|\u200b(?![{SPACE_NEEDED}])")
# Arabic, Syriac to Sinhala, Khmer, Mongolian; symbols, arrows and everything that can be part of an emoji.
JOINING = (
    "\u0600-\u08ff\u0900-\u0dff\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc"
    "\u2190-\u21ff\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff"
)
JOINERS = re.compile(f"(?<![{JOINING}])[\u200c\u200d]+|[\u200c\u200d]+(?![{JOINING}])")
# Windows-1252 read as Latin-1; its five undefined codes stay controls.
CODES_1252 = {
    byte: bytes([byte]).decode("cp1252") for byte in range(0x80, 0xA0) if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}

UNICODE_ESCAPE = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
ENTITY = re.compile(r"&(?:amp|quot|apos|nbsp|#39|#x27|#34);")
CODE = re.compile(
    r"[{}<>]|```|[;=(]\s*$|\b(?:print|printf|echo|def|var|let|const|regex|import|select|sep)\b", re.M | re.I
)
ABOUT_CODE = re.compile(
    r"\b(?:unicode|escapes?|escaping|json|regex|regular expression|strings?|code|codes|encod\w*|html|xml|entit\w*|"
    r"url|markdown|latex|script|program\w*|query|sql|function)\b|유니코드|이스케이프|코드|인코딩|정규|문자열|엔티티|"
    r"프로그램|함수",
    re.I,
)


def control_characters(texts: Texts) -> Finding | None:
    """Invisible characters: NUL, other controls, zero-width marks, CRLF.

    Line ends become \\n, C1 codes their Windows-1252 characters where defined. Bidi overrides, BOMs, soft hyphens and
    the like are removed. Joiners stay next to emoji and Arabic or Indic letters, direction marks in texts with
    right-to-left letters, zero-width spaces in scripts without spaces.
    Misses: controls written as \\x07 (rule `literal-escapes`).
    Source: AlpacaDataCleaned, class 10.
    """
    for field in FIELDS:
        text = getattr(texts, field)
        if text.replace("\n", "").replace("\t", "").isprintable():
            continue
        visible = _visible(text)
        if visible != text:
            at = next((i for i, (a, b) in enumerate(zip(text, visible, strict=False)) if a != b), len(visible))
            rest = control_characters(texts._replace(**{field: visible}))
            after = rest.texts if rest else None
            code = f"U+{ord(text[at]):04X}"
            return Finding(
                f"{field} holds {code}, which is not text", after or texts._replace(**{field: visible}), field, at
            )
    return None


def _visible(text: str) -> str:
    """The text without invisible characters."""
    text = LINE_ENDS.sub("\n", text)
    text = INVISIBLE.sub(lambda match: CODES_1252.get(ord(match[0]), ""), text)
    if not text.isascii():
        text = ZERO_SPACE.sub("", text)
        text = JOINERS.sub("", text)
        if not RIGHT_TO_LEFT.search(text):
            text = MARKS.sub("", text)
        if FLAG not in text:
            text = TAGS.sub("", text)
    return text


def literal_escapes(texts: Texts) -> Finding | None:
    r"""Escapes that were left as text: "\n" in an answer without line ends, "\u00e9", "&amp;".

    Only in rows without code that are not about escapes, strings or code. "\n" becomes a line end if the text has no
    other line end and no other backslash; "\u" is resolved only to letters or emoji outside of ASCII.
    Misses: escapes in rows about code, and "\t".
    Source: own; from Korean translations of Alpaca and hub data sets that were serialised twice.
    """
    if not any("\\" in text or "&" in text for text in texts):
        return None
    if ABOUT_CODE.search(texts.asked) or any(CODE.search(text) for text in texts):
        return None
    resolved = type(texts)(*(_resolved(text) for text in texts))
    for field, before, after in zip(FIELDS, texts, resolved, strict=True):
        if before != after:
            at = min(i for i in (before.find("\\"), before.find("&")) if i >= 0)
            return Finding(f"{field} holds escapes that were never resolved", resolved, field, at)
    return None


def _resolved(text: str) -> str:
    if "\\u" in text and text.count("\\") == text.count("\\u") + text.count("\\n"):
        text = UNICODE_ESCAPE.sub(_letters, text)
    if "\\n" in text and "\n" not in text and text.count("\\") == text.count("\\n"):
        text = text.replace("\\n", "\n")
    return ENTITY.sub(lambda match: html.unescape(match[0]).replace("\xa0", " "), text) if "&" in text else text


def _letters(match: re.Match[str]) -> str:
    """The letters or emoji of a sequence of \\uXXXX; otherwise the sequence."""
    units = bytes.fromhex(match[0].replace("\\u", ""))
    try:
        spelled = units.decode("utf-16-be")
    except UnicodeDecodeError:
        return match[0]
    return spelled if all(c > "\x7f" and c.isprintable() for c in spelled) else match[0]


def replacement_character(texts: Texts) -> Finding | None:
    """U+FFFD, which replaces a character that was lost in decoding.

    Rows about it are left alone, and rows with a single one outside of the answer.
    Misses: a "?" in place of the lost character.
    Source: own.
    """
    if texts.output.isascii() and texts.input.isascii() and texts.instruction.isascii():
        return None
    counts = [text.count("\ufffd") for text in texts]
    if counts[2] == 0 and sum(counts) < 2:
        return None
    if re.search(r"replacement char|unicode|U\+FFFD|encoding|유니코드|인코딩", texts.instruction, re.I):
        return None
    field = next(f for f, count in zip(reversed(FIELDS), reversed(counts), strict=True) if count)
    return Finding(
        f"{field} holds U+FFFD where characters were lost", None, field, getattr(texts, field).find("\ufffd")
    )
