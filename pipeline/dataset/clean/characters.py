"""Rules about single characters: controls nobody sees, escapes that were never resolved, lost characters."""

from __future__ import annotations

import html
import re

from pipeline.dataset.clean.finding import FIELDS, Finding, Texts

LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# C0 and C1, soft hyphen, Mongolian vowel separator, bidi embeddings and isolates, word joiner and invisible
# operators, deprecated format marks, interlinear marks, BOM.
UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u180e\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]"
)
TAGS = re.compile("[\U000e0000-\U000e007f]")
ENGLAND = "\U0001f3f4"  # the black flag that tag characters turn into a regional one
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
# Windows-1252 read as Latin-1: the five codes that it leaves open stay controls.
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
    """Characters that nobody sees and no model should learn: NUL, other controls, zero-width marks, CRLF.

    Line ends become \\n. C1 codes become the Windows-1252 signs that they stand for where they stand for any. Bidi
    overrides, BOMs, soft hyphens and the like go. Joiners stay where an emoji or an Arabic or Indic letter needs
    them, direction marks where the text has right-to-left letters, zero-width spaces in scripts that write no spaces.
    Source: AlpacaDataCleaned, class 10. It does not see controls spelled out as \\x07 (rule `literal-escapes`).
    """
    for field in FIELDS:
        text = getattr(texts, field)
        if text.replace("\n", "").replace("\t", "").isprintable():
            continue
        mended = _seen(text)
        if mended != text:
            at = next((i for i, (a, b) in enumerate(zip(text, mended, strict=False)) if a != b), len(mended))
            rest = control_characters(texts._replace(**{field: mended}))
            after = rest.texts if rest else None
            code = f"U+{ord(text[at]):04X}"
            return Finding(
                f"{field} holds {code}, which is not text", after or texts._replace(**{field: mended}), field, at
            )
    return None


def _seen(text: str) -> str:
    """The text without what cannot be seen."""
    text = LINE_ENDS.sub("\n", text)
    text = UNSEEN.sub(lambda found: CODES_1252.get(ord(found[0]), ""), text)
    if not text.isascii():
        text = ZERO_SPACE.sub("", text)
        text = JOINERS.sub("", text)
        if not RIGHT_TO_LEFT.search(text):
            text = MARKS.sub("", text)
        if ENGLAND not in text:
            text = TAGS.sub("", text)
    return text


def literal_escapes(texts: Texts) -> Finding | None:
    r"""Escapes that were left as text: "\n" in an answer without line ends, "\u00e9", "&amp;".

    Only in rows that show no sign of code and do not speak of escapes, strings or code. A "\n" is turned into a line
    end where the text has no other and no other backslash; "\u" only where it spells letters or emoji beyond ASCII.
    It does not see escapes in rows about code, nor "\t".
    Source: own; seen in Korean translations of Alpaca and in hub data sets that were dumped twice.
    """
    if not any("\\" in text or "&" in text for text in texts):
        return None
    if ABOUT_CODE.search(texts.asked) or any(CODE.search(text) for text in texts):
        return None
    mended = Texts(*(_resolved(text) for text in texts))
    for field, before, after in zip(FIELDS, texts, mended, strict=True):
        if before != after:
            at = min(i for i in (before.find("\\"), before.find("&")) if i >= 0)
            return Finding(f"{field} holds escapes that were never resolved", mended, field, at)
    return None


def _resolved(text: str) -> str:
    if "\\u" in text and text.count("\\") == text.count("\\u") + text.count("\\n"):
        text = UNICODE_ESCAPE.sub(_letters, text)
    if "\\n" in text and "\n" not in text and text.count("\\") == text.count("\\n"):
        text = text.replace("\\n", "\n")
    return ENTITY.sub(lambda found: html.unescape(found[0]).replace("\xa0", " "), text) if "&" in text else text


def _letters(found: re.Match[str]) -> str:
    """What a run of \\uXXXX spells, where it spells letters or emoji; otherwise itself."""
    units = bytes.fromhex(found[0].replace("\\u", ""))
    try:
        spelled = units.decode("utf-16-be")
    except UnicodeDecodeError:
        return found[0]
    return spelled if all(c > "\x7f" and c.isprintable() for c in spelled) else found[0]


def replacement_character(texts: Texts) -> Finding | None:
    """U+FFFD, which stands where a character was lost in decoding and nobody knows which.

    Rows that speak of it are left alone, as are those with a single one outside the answer.
    Source: own. It does not see a "?" written in place of what was lost.
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
