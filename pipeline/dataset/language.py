"""Which language a text is in: told by its script, and among Latin scripts by the small words of the commonest."""

from __future__ import annotations

import re

HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
LETTER = re.compile(r"[^\W\d_]")
NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
ASCII_LETTERS = re.compile(r"[A-Za-z]+")
LONG = 60_000  # characters; longer texts are judged by a third of this from the start, the middle and the end
NONE = "zxx"  # ISO 639: no linguistic content

# Letters by script. Where one language has nearly all of a script, its ISO 639 code; otherwise ISO 15924 in lower case:
# Cyrillic, Arabic and Devanagari are each written by many. Han is told from Japanese below, by the kana beside it.
SCRIPTS = {
    "ko": HANGUL.pattern[1:-1],
    "kana": r"\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "han": r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af",
    "cyrl": r"\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f",
    "arab": r"\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    "deva": r"\u0900-\u097f\ua8e0-\ua8ff",
    "el": r"\u0370-\u03ff\u1f00-\u1fff",
    "he": r"\u0590-\u05ff\ufb1d-\ufb4f",
    "th": r"\u0e00-\u0e7f",
    "beng": r"\u0980-\u09ff",
    "pa": r"\u0a00-\u0a7f",
    "gu": r"\u0a80-\u0aff",
    "or": r"\u0b00-\u0b7f",
    "ta": r"\u0b80-\u0bff",
    "te": r"\u0c00-\u0c7f",
    "kn": r"\u0c80-\u0cff",
    "ml": r"\u0d00-\u0d7f",
    "si": r"\u0d80-\u0dff",
    "lo": r"\u0e80-\u0eff",
    "tibt": r"\u0f00-\u0fff",
    "my": r"\u1000-\u109f",
    "ka": r"\u10a0-\u10ff\u1c90-\u1cbf",
    "ethi": r"\u1200-\u139f",
    "km": r"\u1780-\u17ff",
    "mong": r"\u1800-\u18af",
    "hy": r"\u0530-\u058f",
}
PATTERNS = {name: re.compile(f"[{signs}]") for name, signs in SCRIPTS.items()}
SHARE = {"ko": 0.2, "kana": 0.2, "han": 0.2}  # a word of these has fewer letters; others need the larger part
MOST = 0.5

# Frequent words that only one of these languages has (or that are far rarer in the others). Words that English shares
# ("me", "die", "come", "on") are left out, so that an English text scores nothing for the others.
WORDS = {
    "en": """
        the of and to is that for with as was are be this it from by not have you which or an at can your
        will their has into my we they he she his but about would there if when how what who do does""",
    "fr": """
        le la les de des en un que est une dans pour qui sur avec vous nous sont ce cette je il elle ils
        mais au aux du et leur été être plus pas""",
    "de": """
        der und das ist nicht ein eine den dem des mit für auf sich sie ich wir zu auch wie bei oder wird
        werden sind einer von""",
    "es": """
        el la los de en un no se las una es por con para como más pero sus lo del al este esta su son ser
        también está muy puede que""",
    "it": """
        il la di che un una sono gli della delle dei nel con non è più anche come questo questa alla dal si
        lo ha le essere""",
    "pt": """
        os as de se um uma não para com por mais como mas ao dos das é são você seu sua muito isso pela pelo
        na no em também que""",
}
LANGUAGES_OF: dict[str, tuple[str, ...]] = {}
for _language, _words in WORDS.items():
    for _word in _words.split():
        LANGUAGES_OF[_word] = (*LANGUAGES_OF.get(_word, ()), _language)
FEWEST = 4  # small words that a language other than English needs
DIFFERENT = 3  # of them different ones: "la la la" is no French
TIMES = 3  # and so many times those of English
WORD_SHARE = 0.12  # and this share of all words: small words make up a third of most prose


def language_of(text: str) -> str:
    """The language of a text as ISO 639, or its script as ISO 15924 in lower case where that is all that can be told.

    `ko` from a fifth of the letters in Hangul on, because Korean instructions often carry English text or code to work
    on; likewise `ja` and `zh`. Of the languages in Latin script, `fr`, `de`, `es`, `it` and `pt` are told by their
    small words, and everything else is `en`. A text without letters is `en` when it has digits ("2 + 2 = ?" is as good
    in English data as in any), `zxx` when it has nothing to read.
    """
    if len(text) > LONG:
        third, middle = LONG // 3, len(text) // 2
        text = " ".join((text[:third], text[middle : middle + third], text[-third:]))
    if not text.isascii() and (script := _script(text)):
        return script
    return _latin(text)


def letters_in(text: str, enough: int) -> int:
    """Letters in `text`, counted no further than the first few hundred characters that are sure to hold `enough`."""
    return len(LETTER.findall(text[: enough * 10]))


def _script(text: str) -> str:
    """The language or script of the letters beyond ASCII, empty when Latin letters carry the text."""
    beyond = "".join(NOT_ASCII.findall(text))
    letters = len(LETTER.findall(beyond))
    if not letters:
        return ""
    total = letters + sum(map(len, ASCII_LETTERS.findall(text)))
    if letters < MOST * total and letters < 0.2 * total:
        return ""
    counts = {}
    left = letters
    for name, pattern in PATTERNS.items():
        counts[name] = len(pattern.findall(beyond))
        left -= counts[name]
        if left <= 0:
            break
    if counts["ko"] >= SHARE["ko"] * total:
        return "ko"
    han, kana = counts.get("han", 0), counts.get("kana", 0)
    if (han + kana) >= SHARE["han"] * total:
        # Japanese prose is half kana; a Chinese text holds one now and then, in a name.
        return "ja" if kana * 8 >= han else "zh"
    name = max(counts, key=lambda n: counts[n])
    return name if counts[name] >= MOST * total else ""


def _latin(text: str) -> str:
    """`en`, or another language whose small words outnumber the English ones."""
    words = text.lower().split()
    if not words:
        return NONE
    scores: dict[str, int] = {}
    small = [word for word in words if word in LANGUAGES_OF]
    for word in small:
        for language in LANGUAGES_OF[word]:
            scores[language] = scores.get(language, 0) + 1
    if len(scores) > 1 or (scores and "en" not in scores):
        best = max(WORDS, key=lambda name: scores.get(name, 0))
        most = scores[best]
        if best != "en" and most >= max(FEWEST, TIMES * scores.get("en", 0), WORD_SHARE * len(words)):
            different = {word for word in small if best in LANGUAGES_OF[word]}
            if len(different) >= DIFFERENT:
                return best
    if scores or any(c.isalnum() for c in text[:200]) or any(c.isalnum() for c in text):
        return "en"
    return NONE
