"""Whether a translation is still in the language of its source."""

from __future__ import annotations

from pipeline.dataset.language import LETTER, WORDS, language_of
from pipeline.synthesis.intact import SCRIPT_OF, kept_out
from pipeline.synthesis.script_check import ALLOWED

FEWEST = 12  # letters below which a text may be a name or a word that both languages have
PROSE = 3  # function words from which a text is prose, not a list of names
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
    if _scripts(language):  # the target has letters of its own
        if language_of(rest) in (language, *_scripts(language)):
            return False
        return is_prose or _is_prose(words, from_language) or (_same(source, translation) and _is_plain(words))
    if _scripts(from_language):
        return language_of(rest) in (from_language, *_scripts(from_language))
    if _same(source, translation):
        return len(words) >= PROSE and (is_prose or _is_prose(words, from_language) or _is_plain(words))
    own, foreign = _function_words(words, language), _function_words(words, from_language)
    return language in WORDS and foreign > PROSE and foreign > 2 * own


def _scripts(language: str) -> tuple[str, ...]:
    return SCRIPT_OF.get(language, ALLOWED.get(language, ()))


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
