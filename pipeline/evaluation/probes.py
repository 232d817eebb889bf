"""Faults of answers that show in the text alone, for one answer and counted over many.

    stops     the answer ended by itself, below the limit; asked only where the reference fits into the limit
    repeats   it ends in a loop: a phrase of two words or more, three times in a row
    language  it is in another language than the one asked for
    echoes    it begins with the question or its input, or continues with the template's own words
    empty     it is empty
    as_base   it is the answer of the model without what was trained

The loop is the one of Holtzman et al. 2020 (arXiv 1904.09751, "The Curious Case of Neural Text Degeneration"), who
count a phrase of at least two tokens that occurs at least three times at the end of a generation. Here words and
punctuation marks are counted, so that tokenizers can be compared, and loops inside a word ("하하하하") count when they
fill the last 30 characters. What the reference does too is not a fault.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.dataset.language import NONE, language_of, letters_in
from pipeline.evaluation.answers import Answer
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_template import ChatTemplate
from pipeline.prompt.template import SLOT, Template

NAMES = {
    "stops": "stopped by themselves",
    "repeats": "repeat themselves",
    "language": "in another language",
    "echoes": "echo the prompt",
    "empty": "empty",
    "as_base": "as the base says",
}
TIMES = 3  # repetitions of a phrase at the end that make a loop
SHORTEST, LONGEST = 2, 60  # words in such a phrase
SIGNS, UNIT = 30, 6  # a unit of at most 6 characters that fills the last 30 is a loop too
SPOKEN = 4  # letters that a text needs to have a language
SAME = 12  # characters that an echo of the question needs
WORD = re.compile(r"\w+|[^\w\s]")
TRANSLATION = re.compile(
    r"translat|번역|통역|옮기|옮겨|(?:영어|한국어|한글|우리말|일본어|중국어|프랑스어|독일어|스페인어|외국어)로"
    r"|\bin(?:to)? (?:english|korean|japanese|chinese|french|german|spanish|italian|portuguese|russian|latin)\b",
    re.IGNORECASE,
)

Counts = dict[str, dict[str, int]]


def probe(answers: Sequence[Answer], template: Template | ChatTemplate, fits: Sequence[bool]) -> Counts:
    """Answers with each fault, and answers for which it could be decided: {"repeats": {"count": 1, "of": 19}, ...}.

    Args:
        fits: whether the reference of each answer is known and short enough for the limit.
    """
    counts: Counts = {name: {"count": 0, "of": 0} for name in NAMES if name != "as_base"}
    for answer, fit in zip(answers, fits, strict=True):
        signs_shown = {**signs(answer, template), **({"stops": answer.stopped} if fit else {})}
        for name, is_shown in signs_shown.items():
            counts[name]["count"] += is_shown
            counts[name]["of"] += 1
    return counts


def signs(answer: Answer, template: Template | ChatTemplate) -> dict[str, bool]:
    """Faults of one answer; those that cannot be decided are left out."""
    empty = not answer.text.strip()
    loops = repeats(answer.text, answer.stopped) and not repeats(answer.expected, True)
    shown = {"empty": empty, "repeats": loops, "echoes": bool(echo(answer, template))}
    other = other_language(answer)
    return shown if other is None else {**shown, "language": other}


def repeats(text: str, whole: bool = True) -> bool:
    """Whether the text ends in a loop. whole: its last word is complete; at the limit an answer may end inside one."""
    words = WORD.findall(text)
    words = words if whole else words[:-1]
    for n in range(SHORTEST, min(LONGEST, len(words) // TIMES) + 1):
        phrase = words[-n:]
        again = (words[-n * k : -n * (k - 1)] for k in range(2, TIMES + 1))
        if any(word[0].isalnum() for word in phrase) and all(other == phrase for other in again):
            return True
    end = "".join(text.split())[-SIGNS:]
    return len(end) == SIGNS and any(end[n:] == end[:-n] for n in range(1, UNIT + 1))


def other_language(answer: Answer) -> bool | None:
    """Whether the answer is in neither the question's language nor the reference's; None where it cannot be decided.

    For a row that asks for a translation only the reference's language is right.
    """
    if letters_in(answer.text, SPOKEN) < SPOKEN:
        return None
    translation = bool(TRANSLATION.search(f"{answer.instruction} {answer.input[:200]}"))
    wanted = {language_of(answer.expected)} if answer.expected.strip() else set()
    if not translation:
        wanted.add(language_of(answer.instruction))
    wanted -= {"", NONE}
    return language_of(answer.text) not in wanted if wanted else None


def echo(answer: Answer, template: Template | ChatTemplate) -> str:
    """What the answer repeats of its prompt: `question`, `input`, `template` or nothing."""
    answer_text, expected = _plain(answer.text), _plain(answer.expected)
    for name, text in (("question", _plain(answer.instruction)), ("input", _plain(answer.input))):
        if len(text) >= SAME and answer_text.startswith(text) and not expected.startswith(text):
            return name
    lines = [line.strip() for line in answer.text.splitlines()]
    for mark in marks_of(template):
        if any(line.startswith(mark) for line in lines) and mark not in answer.expected:
            return "template"
    return ""


def marks_of(template: Template | ChatTemplate) -> list[str]:
    """Lines of the template around the slots, such as `### Response:`; not short ones, which texts contain too. A
    chat template has none: its marks are special tokens."""
    pieces = [p for form in template.forms for p in SLOT.split(form)]
    lines = [line.strip() for piece in pieces if not SLOT.fullmatch(piece) for line in piece.splitlines()]
    return [line for line in dict.fromkeys(lines) if letters_in(line, SPOKEN) >= SPOKEN or line.startswith("### ")]


def fitting(encoder: AnyEncoder, references: Sequence[str], limit: int) -> list[bool]:
    """Whether each reference is known and takes, with its end token, at most two thirds of the limit in tokens."""
    lengths = map(len, encoder.tokenizer.encode([encoder.template.answer(text) for text in references]))
    return [bool(text.strip()) and 3 * (n + 1) <= 2 * limit for text, n in zip(references, lengths, strict=True)]


def languages_asked(answers: Sequence[Answer]) -> Counter[str]:
    """Questions by language."""
    return Counter(language_of(answer.instruction) for answer in answers)


def _plain(text: str) -> str:
    """The words of a text in lower case."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def rows(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, base, tuned) for the final table: faults that some answer has. Stopping has its own rows there."""
    lines = []
    for name in ("repeats", "language", "echoes", "empty"):
        b, t = base.get(name), tuned.get(name)
        if b and t and b["of"] and t["of"] and (b["count"] or t["count"]):
            lines.append((f"answers that {_verb(name)} ({t['of']})", percent(b), percent(t)))
    same = tuned.get("as_base")
    if same and same["of"] and same["count"] == same["of"]:
        lines.append((f"answers that are the base's, letter by letter ({same['of']})", "", percent(same)))
    return lines


def _verb(name: str) -> str:
    return NAMES[name] if name in ("repeats", "echoes") else f"are {NAMES[name]}"


def percent(counted: Mapping[str, int]) -> str:
    """A share as the table has it."""
    return f"{counted['count'] / counted['of']:.1%}" if counted["of"] else "not asked"
