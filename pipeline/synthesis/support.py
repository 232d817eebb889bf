"""Whether a passage supports an answer: the quotation is in it, and so are the answer's numbers, names and most words.

Necessary, not sufficient: an answer that turns the words of a passage into their opposite passes. The judge
(`synthesis.judge`) may find those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.dataset.language import LETTER, WORDS, language_of
from pipeline.synthesis.quantities import MONTHS, plain, quantities, values, without_value

# Of the content words of an answer that its passage or question must hold. Measured on 239 Alpaca rows with a passage
# as input: with 0.4, 4.6 % of the outputs are below it, and 98.7 % of the outputs of other rows.
SHARE = 0.4
FEWEST_WORDS = 4  # content words; with fewer their share says nothing
QUOTE = 8  # letters and digits that a quotation has at least
PART = 4  # of one part of it, between two marks of omission
SHOWN = 6  # words in a reason

SIGNS = re.compile(r"[\W_]+")
OMISSION = re.compile(r"\[?(?:\.\.\.+|…+|\(중략\))\]?")
NUMBERING = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•])[ \t]+", re.MULTILINE)
LATIN = re.compile(r"[A-Za-zÀ-ɏ]+")
NAME = re.compile(r"(?<![.!?:。…\n•\-\"“(])(?<!^)[ \t]([A-ZÀ-Þ][\w’'À-ɏ]*)")
WORD = re.compile(r"[^\W\d_]+")
HANGUL_WORD = re.compile(r"[가-힣]+")
NO_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff]")
# By their first two letters.
KOREAN_STOP = frozenset(re.findall(r"\S+", """
    있습 있다 있는 있으 있어 있고 있기 합니 하는 하고 하며 하여 하기 하면 했습 해서 해야 입니 이며
    이고 이다 됩니 되는 되어 되며 되었 된다 위해 위한 통해 대한 대해 때문 그리 그러 그런 그래 하지
    따라 또한 것입 것은 것을 것이 것으 이는 이를 이것 그것 경우 모든 매우 가장 다음 없습 없는 없다
    같은 같이 같습 이러 라고 라는 않습 않는 않다 않고 의해 관한 관련 여러 다른 특히 주로 이라 각각
    모두 함께 바로 여기 이후 이전 동안 이로 이렇 그렇 지닌 가진 가지 만들 사용 뜻합 말합 의미 아니
"""))  # fmt: skip
ENGLISH_STOP = frozenset(re.findall(r"\S+", WORDS["en"] + """
    also than then them these those such some most more many much been being were because while during between into over
    under after before through within without against each other another both either neither only very just used using
    made make makes which whose where since could would should might must shall however therefore thus called known
    include includes including such well even although upon along among according become became becomes
"""))  # fmt: skip


def unsupported(answer: str, quote: str, passage: str, question: str, language: str) -> list[str]:
    """What of an answer the passage does not have, each in a few words; empty where it is supported.

    Args:
        passage: with its headings. language: of the answer. Words are compared where the passage is in it, too.
    """
    answer, context = NUMBERING.sub("", plain(answer)), plain(f"{passage}\n{question}")
    missing = [problem] if (problem := _quote_problem(quote, passage)) else []
    if numbers := list(_numbers(answer, context, language)):
        missing.append(f"numbers that are not in the passage: {_listed(numbers)}")
    if names := list(_names(answer, context, language)):
        missing.append(f"names or words that are not in the passage: {_listed(names)}")
    if _same_language(passage, answer):
        missing += _overlap(answer, context)
    return missing


def _quote_problem(quote: str, passage: str) -> str:
    """What is wrong with the quotation. Spaces, letter case and punctuation make no difference."""
    whole = _letters(passage)
    parts = [part for part in map(_letters, OMISSION.split(quote)) if part]
    if sum(map(len, parts)) < min(QUOTE, len(whole)):
        return "no quotation of the passage" if not parts else "the quotation is too short"
    at = 0
    for part in parts:
        place = whole.find(part, at)
        if place < 0 or (len(part) < PART and len(parts) > 1):
            return f"the quotation is not in the passage: {quote.strip()[:60]}"
        at = place + len(part)
    return ""


def _letters(text: str) -> str:
    return SIGNS.sub("", plain(text).casefold())


def _numbers(answer: str, context: str, language: str) -> Iterator[str]:
    wanted = list(quantities(answer))
    if wanted:
        have = values(context, language) | values(context, language_of(context))
        yield from without_value(wanted, have)


def _names(answer: str, context: str, language: str) -> Iterator[str]:
    """Latin words in a text of another script; in Latin script, words with a capital inside a sentence."""
    folded = context.casefold()
    if not _is_latin(answer):
        for word in dict.fromkeys(LATIN.findall(answer)):
            if len(word) > 1 and word.casefold() not in folded:
                yield word
        return
    if language == "de" or not _is_latin(context):  # German writes every noun with a capital
        return
    have = values(context, language)
    for name in dict.fromkeys(NAME.findall(answer)):
        word = re.sub(r"['’]s?$", "", name.casefold())
        if len(word) < 2 or word in ENGLISH_STOP or word.rstrip("s") in folded:
            continue
        if not (word in MONTHS and MONTHS.index(word) + 1 in have):
            yield name


def _overlap(answer: str, context: str) -> list[str]:
    """The content words that are missing where most are."""
    have = _letters(context)
    words = list(dict.fromkeys(_content(answer)))
    missing = [word for word, stem in words if stem not in have]
    if len(words) < FEWEST_WORDS or len(words) - len(missing) >= SHARE * len(words):
        return []
    return [f"of {len(words)} words only {len(words) - len(missing)} are in the passage; not: {_listed(missing)}"]


def _content(text: str) -> Iterator[tuple[str, str]]:
    """Words with a meaning, and the beginning by which each is found whatever its ending."""
    if len(NO_SPACES.findall(text)) * 2 > len(LETTER.findall(text)):  # no spaces: pairs of letters
        for run in WORD.findall(text.casefold()):
            yield from ((run[at : at + 2], run[at : at + 2]) for at in range(len(run) - 1))
        return
    for word in WORD.findall(text.casefold()):
        if HANGUL_WORD.fullmatch(word):
            if len(word) > 1 and word[:2] not in KOREAN_STOP:
                yield word, word[:2]
        elif len(word) > 3 and word not in ENGLISH_STOP:
            yield word, word[:5]


def _is_latin(text: str) -> bool:
    return len(LATIN.findall(text)) * 2 > len(WORD.findall(text))


def _same_language(passage: str, answer: str) -> bool:
    return language_of(passage) == language_of(answer) or (_is_latin(passage) and _is_latin(answer))


def _listed(words: list[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(word[:40] for word in words[:SHOWN]) + more
