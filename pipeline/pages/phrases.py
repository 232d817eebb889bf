"""Texts of pages in English and Korean, from the two tables of texts.toml.

A `Phrase` is the English text as an ordinary string, with the Korean text beside it. The functions that write HTML and
SVG (`html_of`, `attribute`) put both on the page; language.js shows one of them. Texts of the user's data are plain
strings and stay as they are.

    phrase("kept", n=5)      the text `kept` of both tables, {n} filled in
    labelled("loss (8)")     a label of another module, with the Korean words of the table `labels`
    `code` in a text         becomes <code>
"""

from __future__ import annotations

import functools
import html
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.pages.text import escape, visible

TABLES = Path(__file__).parent / "texts.toml"
LANGUAGES = ("en", "ko")
_CODE = re.compile("`([^`]*)`")


class Phrase(str):
    """A text of the page: the string itself is English, `korean` the Korean text."""

    korean: str

    def __new__(cls, english: str, korean: str) -> Phrase:
        made = super().__new__(cls, english)
        made.korean = korean
        return made


@functools.cache
def tables() -> dict[str, dict[str, str]]:
    """The tables `en`, `ko`, `labels` (English words: Korean words) and `rules` (Korean) of texts.toml."""
    return tomllib.loads(TABLES.read_text(encoding="utf-8"))


def phrase(key: str, /, **values: Any) -> Phrase:
    """A text of both tables. values: fill its braces as in `str.format`; phrases among them in their own language.

    Raises:
        KeyError: there is no such text, or a value is missing.
    """
    english, korean = (tables()[language][key] for language in LANGUAGES)
    return Phrase(english.format(**values), korean.format(**{name: korean_of(value) for name, value in values.items()}))


def korean_of(value: Any) -> Any:
    """The Korean text of a phrase; any other value as it is."""
    return value.korean if isinstance(value, Phrase) else value


def joined(parts: Iterable[str], separator: str = " ") -> Phrase:
    """Phrases and texts one after another; empty ones are left out."""
    kept = [part for part in parts if part]
    return Phrase(separator.join(kept), separator.join(korean_of(part) for part in kept))


def rule_text(rule: str, english: str) -> str:
    """The description of a rule of the data stage, with the Korean one of the table `rules`."""
    korean = tables()["rules"].get(rule)
    return Phrase(english, korean) if korean and english else english


def labelled(text: str) -> Phrase:
    """An English label that another module made, with the words of the table `labels` in Korean."""
    return Phrase(text, _words().sub(lambda match: tables()["labels"][match[0]], text))


@functools.cache
def _words() -> re.Pattern[str]:
    longest_first = sorted(tables()["labels"], key=len, reverse=True)
    return re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in longest_first))


def html_of(text: object) -> str:
    """Escaped HTML of a text; of a phrase both languages, of which the page shows one."""
    if not isinstance(text, Phrase):
        return escape(text)
    if text.korean == str(text):
        return _coded(text)
    if "`" in text or "`" in text.korean:
        return f'<span class="en">{_coded(text)}</span><span class="ko" lang="ko">{_coded(text.korean)}</span>'
    return f"<span{data_of(text)}>{escape(text)}</span>"


def data_of(text: str) -> str:
    """The attribute of an element with this text alone, for language.js; empty where there is no Korean text."""
    return f' data-ko="{escape(text.korean)}"' if isinstance(text, Phrase) and text.korean != str(text) else ""


def attribute(name: str, text: str) -> str:
    """An attribute with a text; of a phrase the Korean text in `data-NAME-ko`."""
    found = f' {name}="{escape(text)}"'
    if isinstance(text, Phrase) and text.korean != str(text):
        found += f' data-{name.removeprefix("data-")}-ko="{escape(text.korean)}"'
    return found


def script_texts() -> Mapping[str, Mapping[str, str]]:
    """The texts that JavaScript writes (`js-...`), by language."""
    return {
        language: {key[3:]: text for key, text in tables()[language].items() if key.startswith("js-")}
        for language in LANGUAGES
    }


def _coded(text: str) -> str:
    return _CODE.sub(lambda match: f"<code>{match[1]}</code>", html.escape(visible(text), quote=True))
