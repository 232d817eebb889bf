"""Texts that speak of the passage that they were made from, which their readers do not have."""

from __future__ import annotations

import re

NOUNS = "passage|excerpt|article|paragraph|text|document|context|snippet"
PATTERNS = (
    rf"\b(?:the|this|above|given|provided|following)\s+(?:(?:above|given|provided|following)\s+)?(?:{NOUNS})\b(?!\s+object)",
    r"\b(?:according to|in|by) the (?:author|table|figure|section|chapter|page|information)\b",
    r"\bdoes the author\b|\b(?:mentioned|described|stated|listed|shown|as noted) (?:above|in the (?:text|passage))",
    r"지문|제시문|윗글|(?<![가-힣])본문(?:에서|에|의|은|을|이)?(?![가-힣])|글쓴이|^(?:필자|저자)(?:는|가|에|의)|"
    r"(?<![가-힣])(?:위|이|다음|앞|주어진|제시된|해당|아래|본)의? ?"
    r"(?:글(?!자|로|씨|라|꼴)|내용|문서|텍스트|단락|문단|구절|기사|자료|발췌문)"
    r"(?:에서|에|의|은|는|을|이|를|과|와|가|로|도)?(?![가-힣])|"
    r"(?<![가-힣])(?:글|필자|저자|내용)에 (?:따르면|나온|나오는|의하면)",
    r"\b(?:laut|im|dem|diesem|obigen|vorliegenden)\s+(?:\w+\s+)?(?:Text|Abschnitt|Artikel|Dokument|Auszug)\b",
    r"\b(?:ce|le|du|cet|l')\s?(?:texte|passage|extrait|document|article)\b(?=.*\?)",
    r"\b(?:el|este|del)\s(?:texto|pasaje|fragmento|documento|artículo)\b(?=.*\?)",
    r"この文章|本文|上の文|文中|上記|这段|上文|这篇文章",
)
MENTIONS = re.compile("|".join(f"(?:{pattern})" for pattern in PATTERNS), re.IGNORECASE)


def mention(text: str) -> str:
    """The words with which a text speaks of a passage, such as `the passage` or 위 글; empty: it stands alone."""
    found = MENTIONS.search(text)
    return " ".join(found.group().split()) if found else ""
