"""Text from outside as it may stand in a Markdown file: as letters, never as markup, HTML or a link."""

from __future__ import annotations

import re

from pipeline.run.terminal import safe

# An underscore between letters marks nothing, and names of tasks are full of them.
MARKUP = re.compile(r"[\\`*\[\]<>|~#!$&]|:(?=//)|(?<![^\W_])_|_(?![^\W_])")
TICKS = re.compile("`+")


def plain(text: object) -> str:
    """One line, in a table or beside other words; what would be markup is escaped."""
    return MARKUP.sub(_escaped, safe(" ".join(str(text).splitlines())))


def code(text: object) -> str:
    """One line between backticks; backticks in it become quotation marks, since nothing can be escaped there but the
    pipe of a table."""
    return f"`{safe(' '.join(str(text).splitlines())).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def fenced(text: str, language: str = "") -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in TICKS.findall(text))])
    return f"{fence}{language}\n{text}\n{fence}"


def _escaped(match: re.Match[str]) -> str:
    sign = match[0]
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(sign, f"\\{sign}")
