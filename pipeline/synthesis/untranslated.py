"""Whether a text is in the language that it should be in."""

from __future__ import annotations

from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.wrong_language import wrong_language
from pipeline.dataset.language import LETTER, WORDS, language_of
from pipeline.synthesis.filters import detected_as
from pipeline.synthesis.intact import kept_out, scripts_of

FEWEST = 12  # letters below which a text may be a name or a word that both languages have
PROSE = 3  # function words from which a text is prose, not a list of names
HAN = {"ja", "zh"}  # a short text in either may look like the other
LATIN = "en"  # what `language_of` says of texts in Latin script that it does not know


def is_untranslated(source: str, translation: str, from_language: str, language: str, is_prose: bool = False) -> bool:
    """Decided on what is not code, address or placeholder. Names and lists of names may stay as they are.

    Args:
        is_prose: the text is known to be prose, as an instruction is.
    """
    rest = kept_out(translation)
    words = rest.split()
    if len(LETTER.findall(rest)) < FEWEST or from_language == language:
        return False
    if scripts_of(language):  # the target has letters of its own
        found = language_of(rest)
        if found in (language, *scripts_of(language)) or {found, language} <= HAN:
            return False
        return is_prose or _is_prose(words, from_language) or (_same(source, translation) and _is_plain(words))
    if scripts_of(from_language):
        return language_of(rest) in (from_language, *scripts_of(from_language))
    if _same(source, translation):
        return len(words) >= PROSE and (is_prose or _is_prose(words, from_language) or _is_plain(words))
    own, foreign = _function_words(words, language), _function_words(words, from_language)
    return language in WORDS and foreign > PROSE and foreign > 2 * own


def in_wrong_language(question: str, answer: str, language: str) -> str:
    """Why a question or an answer is not in a language; empty where it is, or where that cannot be told."""
    expected = detected_as(language)
    finding = wrong_language(Texts(question, "", answer), expected) if expected else None
    return finding.reason if finding else ""


def _function_words(words: list[str], language: str) -> int:
    """Function words of a language, of English where the language has no list."""
    known = set(WORDS.get(language, WORDS[LATIN]).split())
    return sum(word.strip(".,;:!?\"'()").lower() in known for word in words)


def _is_prose(words: list[str], language: str) -> bool:
    return _function_words(words, language) >= PROSE


def _is_plain(words: list[str]) -> bool:
    """Whether most are words with small letters, so not a list of names."""
    small = [word for word in words if word[0].islower()]
    return len(small) > PROSE and len(small) * 2 > len(words)


def _same(source: str, translation: str) -> bool:
    return " ".join(source.casefold().split()) == " ".join(translation.casefold().split())
