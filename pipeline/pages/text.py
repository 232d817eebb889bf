"""Untrusted texts as HTML: escaped, shortened, with invisible characters made visible."""

from __future__ import annotations

import difflib
import html
import json
import re
import string
from collections.abc import Sequence
from typing import Any

LIMIT = 1_200  # characters of one field that are shown
CONTEXT = 90  # characters around a change
MOST_WORDS = 600  # words compared one by one; longer changes are marked whole
# Invisible characters and those that change the direction of text: controls, bidi marks, zero width, surrogates.
# Joiners (U+200C, U+200D) stay: Persian words and emoji need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff\ufff9-\uffff]"
)
_LETTERS = string.ascii_letters + string.digits
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def visible(text: str) -> str:
    """The text with every invisible character written as ‹U+202E›, and without carriage returns before line breaks."""
    return _UNSEEN.sub(lambda m: f"‹U+{ord(m[0]):04X}›", text.replace("\r\n", "\n"))


def escape(text: object) -> str:
    """HTML of a text, safe inside elements and quoted attributes."""
    return html.escape(visible(str(text)), quote=True)


def shorten(text: str, limit: int = LIMIT) -> str:
    """At most `limit` characters, then a note of how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]} … [{len(text) - limit:,} more characters]"


def as_text(value: Any) -> str:
    """A value of any type as text. A long list is cut before it is formatted."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        value = value[:50]
    try:
        return json.dumps(value, ensure_ascii=False, indent=1, default=str)
    except (RecursionError, ValueError):
        return "(nested too deeply to be shown)"


def difference(before: str, after: str) -> tuple[str, str]:
    """HTML of both texts around what changed: <del> in the first, <ins> in the second."""
    if before == after:
        same = escape(shorten(before))
        return same, same
    start = _common(before, after)
    start -= _inside_word(before[:start], before[start:], after[start:])
    end = _common(before[start:][::-1], after[start:][::-1])
    heads = before[start : len(before) - end], after[start : len(after) - end]
    end -= _inside_word(before[len(before) - end :][::-1], *(head[::-1] for head in heads))
    middle = before[start : len(before) - end], after[start : len(after) - end]
    lead, tail = _lead(before[:start]), _tail(before[len(before) - end :])
    old, new = _marked(*middle)
    return lead + old + tail, lead + new + tail


def overlap(left: str, right: str, least: int = 3) -> tuple[str, str]:
    """HTML of both texts with the runs of at least `least` words that they share in <mark>."""
    pair = [_WORDS.findall(shorten(text)) for text in (left, right)]
    words = [[(w.casefold(), i) for i, w in enumerate(found) if w[0].isalnum()] for found in pair]
    matcher = difflib.SequenceMatcher(None, [w for w, _ in words[0]], [w for w, _ in words[1]], autojunk=False)
    shown: list[list[tuple[int, int]]] = [[], []]
    for block in matcher.get_matching_blocks():
        if block.size >= least or (block.size and block.size == min(map(len, words))):
            for side, at in ((0, block.a), (1, block.b)):
                first, last = words[side][at][1], words[side][at + block.size - 1][1]
                shown[side].append((first, last))
    return _with_marks(pair[0], shown[0]), _with_marks(pair[1], shown[1])


def _with_marks(words: Sequence[str], spans: Sequence[tuple[int, int]]) -> str:
    out: list[str] = []
    at = 0
    for first, last in spans:
        out += [escape("".join(words[at:first])), "<mark>", escape("".join(words[first : last + 1])), "</mark>"]
        at = last + 1
    return "".join(out) + escape("".join(words[at:]))


def _common(left: str, right: str) -> int:
    """Length of the common start, by halving: texts may have a million characters."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[:middle] == right[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _inside_word(common: str, one: str, other: str) -> int:
    """Letters at the end of the common text that belong to a word that differs after it: the s of side and slide."""
    if not (one[:1].isalnum() and other[:1].isalnum()):
        return 0
    tail = common[-40:]
    return len(tail) - len(tail.rstrip(_LETTERS)) if tail.isascii() else 0


def _lead(text: str) -> str:
    return escape(text if len(text) <= CONTEXT else "… " + text[-CONTEXT:])


def _tail(text: str) -> str:
    return escape(text if len(text) <= CONTEXT else text[:CONTEXT] + " …")


def _marked(before: str, after: str) -> tuple[str, str]:
    old, new = _WORDS.findall(before[: 20 * LIMIT]), _WORDS.findall(after[: 20 * LIMIT])
    if max(len(old), len(new)) > MOST_WORDS:
        return _tagged("del", shorten(before)), _tagged("ins", shorten(after))
    left: list[str] = []
    right: list[str] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            same = escape("".join(old[a:b]))
            left.append(same)
            right.append(same)
        else:
            left.append(_tagged("del", "".join(old[a:b])))
            right.append(_tagged("ins", "".join(new[c:d])))
    return "".join(left), "".join(right)


def _tagged(tag: str, text: str) -> str:
    """The text in a tag; text of white space alone is made visible."""
    if text and not text.strip():
        text = text.replace(" ", "␣").replace("\t", "⇥").replace("\n", "↵\n")
    return f"<{tag}>{escape(text)}</{tag}>" if text else ""
