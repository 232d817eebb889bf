"""The rule on rows in another language than that of their source."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts
from pipeline.dataset.language import HANGUL, WORDS, language_of, letters_in

LANGUAGE_NAMES = re.compile(
    r"\b(?:translat\w*|languages?|english|korean|japanese|chinese|mandarin|cantonese|french|german|spanish|italian|"
    r"portuguese|russian|arabic|hindi|dutch|swedish|turkish|greek|latin|hebrew|thai|vietnamese|indonesian|malay|"
    r"polish|ukrainian|danish|norwegian|finnish|hungarian|czech|romanian|persian|urdu|bengali|tamil|swahili|tagalog|"
    r"filipino|hangul|kanji|hiragana|katakana|pinyin|romani[sz]\w*|transliterat\w*|multilingual|bilingual|foreign|"
    r"locali[sz]\w*|pronunciation|pronounce)\b|번역|영어|영문|영작|한국어|한글|일본어|중국어|한자|불어|프랑스어|"
    r"독일어|독어|스페인어|러시아어|아랍어|이탈리아어|포르투갈어|베트남어|라틴어|외국어|언어|로마자|영단어|알파벳|"
    r"코드|명령|셸|프로그램|함수|파이썬|자바|쿼리|스크립트|html|sql|python|수식|정규식",
    re.I,
)
FEWEST = 30  # letters that are needed to detect a language
KOREAN_FEWEST = 20
ENGLISH = frozenset(WORDS["en"].split())
SMALL_WORDS = 2  # English function words; with fewer a text may be names, commands or a formula


def wrong_language(texts: Texts, expected: str) -> Finding | None:
    """Rows in another language than the source's: English answers in Korean data, French ones in English data.

    Decided on the instruction and on the answer, from 30 letters on (20 if Korean is expected). Rows whose instruction
    is about languages, translation or code are left alone.
    Misses: short answers, answers partly in the right language, and languages that `pipeline.dataset.language` does not
    distinguish.
    Source: own.
    """
    for field in ("instruction", "output"):
        text = getattr(texts, field)
        if expected == "en" and text.isascii() and len(text) < 2 * FEWEST:
            continue
        language = language_of(text)
        if language in (expected, "zxx"):
            continue
        fewest = KOREAN_FEWEST if expected == "ko" else FEWEST
        if letters_in(text, fewest) < fewest and not (expected == "en" and HANGUL.search(text)):
            continue
        if language == "en" and (_is_code(text) or not _is_english(text)):
            continue
        if not LANGUAGE_NAMES.search(texts.asked):
            return Finding(f"{field} is in {language!r}, the source should be in {expected!r}", None, field)
    return None


def _is_english(text: str) -> bool:
    """`language_of` returns `en` by default; here some English function words are required."""
    return sum(word in ENGLISH for word in text[:2_000].lower().split()) >= SMALL_WORDS


def _is_code(text: str) -> bool:
    """Code has English keywords in every language."""
    head = text[:2_000]
    return "```" in head or sum(head.count(sign) for sign in "{}=;<>()[]_/\\") * 12 > len(head)
