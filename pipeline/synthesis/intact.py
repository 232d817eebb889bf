"""What a translation must leave as it is: code, placeholders, tags, blanks, addresses, foreign words, numbers.

Names of people and places are not compared: many languages write them in letters of their own (John, 존). Numbers are
compared by value (`quantities.py`): 1,000 may become 1.000, 1000 or 천, 5 million 500만, and two 두.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from pipeline.dataset.language import PATTERNS
from pipeline.run.width import excerpt
from pipeline.synthesis.quantities import plain, quantities, values, without_value
from pipeline.synthesis.script_check import ALLOWED

MOST = 8  # differences that are named
LONGEST = 80  # characters of one
FENCE = re.compile(r"```[\w+#.-]*[ \t]*\n?(.*?)```", re.DOTALL)
VERBATIM = {  # in this order: what one finds, the next ones do not see
    "code": re.compile(r"`[^`\n]+`"),
    "address": re.compile(r"\b(?:(?:https?|ftp)://|www\.[a-z0-9-]+\.)[^\s<>\"'`)\]}가-힣]+", re.I | re.A),
    "e-mail address": re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+\b", re.A),
    "placeholder": re.compile(
        r"\$?\{\{?\s*[A-Za-z_][\w.-]*\s*\}?\}|%\([A-Za-z_]\w*\)[sdif]|(?<![\w%])%[sd](?![A-Za-z])|"
        r"\[[A-Z][A-Z0-9_]+(?: [A-Z0-9_]+)*\]", re.A,
    ),
    "tag": re.compile(r"</?[A-Za-z][\w:-]*(?:\s+[\w:-]+\s*=[^<>]*)?\s*/?>", re.A),
    "command": re.compile(r"\\[A-Za-z]{2,}", re.A),
    "file name": re.compile(
        r"\b[\w-]{1,100}\.(?:py|js|ts|java|cpp|html|css|json|ya?ml|xml|csv|tsv|txt|md|pdf|docx?|xlsx?|png|jpe?g|gif|zip|sql|"
        r"sh|exe|mp[34])\b", re.I | re.A,
    ),
}  # fmt: skip
TAG_NAME = re.compile(r"</?[A-Za-z][\w:-]*", re.A)
BLANK = re.compile(r"_{2,}")
END_OF_ADDRESS = ".,;:!?"

# A line of code that nothing marks as such: a call, an assignment, a block's head, or signs at its end.
CODE_LINE = re.compile(
    r"^\s*(?:(?:def|class|for|while|if|elif|with|switch|function|public|private|static)\b.*[:{(]\s*$|"
    r"(?:def|function)\s+\w+\s*\(.*|[\w.]+\(.*\)\s*;?\s*$|[a-z_][\w.\[\]'\"]*\s*[-+*/]?=\s*(?:[\d\[\"'({]|\w+[(.]).*|"
    r"(?:import|from)\s+[\w.]+(?:\s+import\s+[\w.*, ]+)?\s*$|#include\s*<.*|.*[=(){}\[\]].*[;{}]\s*$)", re.A,
)  # fmt: skip
LONGEST_LINE = 500  # characters of a line of code; longer lines are data
IN_CODE = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|(?:#|//).*$")  # strings and comments, which may be translated
PROSE = re.compile(r"\b(?:the|an|of|to|your|please)\b", re.IGNORECASE)  # in a line that is no code
IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.A)
SEPARATED = re.compile(r"[\s,;|/]+")
RUN = 4  # numbers with nothing but separators between them that are data, to be kept in order

LETTER_SCRIPTS = {
    name: re.compile(f"{pattern.pattern}+(?:[ ·]{pattern.pattern}+)*") for name, pattern in PATTERNS.items()
}


def differences(source: str, translation: str, from_language: str, language: str) -> list[str]:
    """What the translation of a text lost or changed, each in a few words; empty where it is intact."""
    source, translation = plain(source), plain(translation)
    lost: list[str] = []
    for block in FENCE.findall(source):
        if _lines(block) not in _lines(translation):
            lost.append(f"code block changed: {_short(block)}")
    rest, rest_translated = FENCE.sub(" ", source), FENCE.sub(" ", translation)
    for kind, pattern in VERBATIM.items():
        want, have = _found(kind, pattern, rest), _found(kind, pattern, rest_translated)
        lost += [f"{kind} missing: {_short(item)}" for item in want if item not in have and item not in translation]
        if kind in ("placeholder", "address", "e-mail address"):
            lost += [f"{kind} added: {_short(item)}" for item in have if item not in want and item not in source]
        rest, rest_translated = pattern.sub(" ", rest), pattern.sub(" ", rest_translated)
    want_blanks, have_blanks = len(BLANK.findall(rest)), len(BLANK.findall(rest_translated))
    if want_blanks != have_blanks:
        lost.append(f"blanks (___): {want_blanks}, now {have_blanks}")
    lost += [f"foreign words missing: {_short(run)}" for run in _foreign(source, from_language, language)
             if run not in translation]  # fmt: skip
    lost += _identifiers(rest, translation)
    lost += _numbers(rest, rest_translated, translation, language)
    return lost[:MOST]


def kept_out(text: str) -> str:
    """The text without what a translation must leave as it is: what is to be translated."""
    text = FENCE.sub(" ", plain(text))
    for pattern in VERBATIM.values():
        text = pattern.sub(" ", text)
    return "\n".join(line for line in text.split("\n") if not _is_code(line))


def scripts_of(language: str) -> tuple[str, ...]:
    """Scripts of a language, or of what `language_of` takes for one, besides Latin; none where they are not known."""
    return ALLOWED.get(language, (language,) if language in PATTERNS else ())


def _found(kind: str, pattern: re.Pattern[str], text: str) -> dict[str, None]:
    """What a pattern finds, in order, each once, in the form in which it is compared."""
    items = (match.group() for match in pattern.finditer(text))
    if kind == "tag":  # the texts of attributes may be translated
        return dict.fromkeys(match.group() for item in items if (match := TAG_NAME.match(item)))
    if kind == "address":
        return dict.fromkeys(item.rstrip(END_OF_ADDRESS) for item in items)
    if kind == "placeholder":
        return dict.fromkeys(re.sub(r"\s+", " ", item) for item in items)
    return dict.fromkeys(items)


def _lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))


def _foreign(text: str, from_language: str, language: str) -> Iterator[str]:
    """Words in a script that neither language is written in: quotations in a third language."""
    own = {*scripts_of(from_language), *scripts_of(language)}
    if text.isascii():
        return
    for name, pattern in LETTER_SCRIPTS.items():
        if name not in own:
            yield from (run for run in pattern.findall(text) if len(run) > 1 or name in ("han", "kana", "ko"))


def _identifiers(source: str, translation: str) -> list[str]:
    """Names in lines of unmarked code that the translation does not have."""
    names: dict[str, None] = {}
    for line in source.split("\n"):
        if _is_code(line):
            names |= dict.fromkeys(IDENTIFIER.findall(IN_CODE.sub(" ", line)))
    have = set(IDENTIFIER.findall(translation)) if names else set()
    return [f"name in code missing: {_short(name)}" for name in names if name not in have]


def _is_code(line: str) -> bool:
    return len(line) <= LONGEST_LINE and bool(CODE_LINE.match(line)) and not PROSE.search(IN_CODE.sub(" ", line))


def _numbers(source: str, translation: str, whole: str, language: str) -> list[str]:
    """Numbers whose value the translation does not have, and data whose numbers changed their order."""
    wanted = list(quantities(source))
    if not wanted:
        return []
    have = values(translation, language) | {v for q in quantities(whole) for reading in q.readings for v in reading}
    lost = without_value(wanted, have)
    if lost:
        before = values(source, "en") | values(source, "ko")
        added = without_value(quantities(translation), before)
        more = f" (new: {', '.join(map(_short, dict.fromkeys(added)))})" if added else ""
        return [f"number missing: {', '.join(map(_short, dict.fromkeys(lost)))}{more}"]
    sequence = Counter(_runs(source))
    sequence.subtract(_runs(translation))
    return [f"numbers changed: {_short(run)}" for run, count in sequence.items() if count > 0]


def _runs(text: str) -> Iterator[str]:
    """Sequences of at least `RUN` numbers with only separators between them."""
    run: list[str] = []
    end = -1
    for quantity in [*quantities(text), None]:
        if quantity is None or not SEPARATED.fullmatch(text[end : quantity.start]):
            if len(run) >= RUN:
                yield " ".join(run)
            run = []
        if quantity is not None:
            run.append(re.sub(r"\D", "", quantity.text))
            end = quantity.end
    return


def _short(text: str) -> str:
    return excerpt(text, LONGEST)
