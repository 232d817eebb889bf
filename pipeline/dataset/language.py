"""Language detection: by script, and among languages in Latin script by frequent function words."""

from __future__ import annotations

import re

HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
LETTER = re.compile(r"[^\W\d_]")
NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
ASCII_LETTERS = re.compile(r"[A-Za-z]+")
LONG = 60_000  # characters; of longer texts a third of this from the start, the middle and the end is used
NONE = "zxx"  # ISO 639: no linguistic content

# Letters by script. ISO 639 code if nearly all texts in a script are in one language; otherwise ISO 15924 in lower case
# (Cyrillic, Arabic, Devanagari). Japanese is distinguished from Chinese below, by its kana.
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
SHARE = {"ko": 0.2, "kana": 0.2, "han": 0.2}  # words of these have fewer letters; other scripts need `MOST`
MOST = 0.5

# Frequent words of one language (or much rarer in the others). Words that are also English ("me", "die", "come", "on")
# are not included, so that an English text scores nothing for the others.
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
FEWEST = 4  # function words that a language other than English needs
DIFFERENT = 3  # different ones among them: "la la la" is not French
TIMES = 3  # so many times the English ones
WORD_SHARE = 0.12  # and this share of all words: function words are about a third of most prose


def language_of(text: str) -> str:
    """The language of a text as ISO 639, or its script as ISO 15924 in lower case if that is unknown.

    `ko` if at least a fifth of the letters are Hangul, because Korean instructions often contain English text or code;
    likewise `ja` and `zh`. In Latin script `fr`, `de`, `es`, `it` and `pt` are detected by function words; all other
    texts are `en`. A text without letters is `en` if it has digits ("2 + 2 = ?" fits into English data), else `zxx`.
    """
    if len(text) > LONG:
        third, middle = LONG // 3, len(text) // 2
        text = " ".join((text[:third], text[middle : middle + third], text[-third:]))
    if not text.isascii() and (script := _script(text)):
        return script
    return _latin(text)


def letters_in(text: str, enough: int) -> int:
    """Letters in the first `10 * enough` characters of `text`."""
    return len(LETTER.findall(text[: enough * 10]))


def _script(text: str) -> str:
    """The language or script of the letters outside of ASCII, empty if the text is in Latin script."""
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
        # Japanese prose is half kana; a Chinese text may have a few, in names.
        return "ja" if kana * 8 >= han else "zh"
    name = max(counts, key=lambda n: counts[n])
    return name if counts[name] >= MOST * total else ""


def _latin(text: str) -> str:
    """`en`, or the language with many more function words than English."""
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
