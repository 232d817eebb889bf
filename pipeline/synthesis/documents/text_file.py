"""Text and Markdown as blocks: separated by blank lines, with Markdown's headings and blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.synthesis.documents.block import Block

HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
UNDERLINE = re.compile(r"(=+|-+)[ \t]*$")  # below a heading of level 1 or 2
FENCE = re.compile(r"[ ]{0,3}(```+|~~~+)")
FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def blocks(text: str, is_markdown: bool) -> list[Block]:
    """The blocks of a text, each with the line in which it begins.

    Args:
        is_markdown: headings are read; in plain text there are none, and a line that begins with # is text.
    """
    skipped = 0
    if is_markdown:
        if front := FRONT_MATTER.match(text):
            skipped, text = front.group().count("\n"), text[front.end() :]
        text = COMMENT.sub(lambda match: "\n" * match.group().count("\n"), text)
    return list(_blocks(text.split("\n"), skipped, is_markdown))


def _blocks(lines: list[str], skipped: int, is_markdown: bool) -> Iterator[Block]:
    begin, held, fence = 0, list[str](), ""
    for number, line in enumerate([*lines, ""], skipped + 1):
        mark = FENCE.match(line) if is_markdown else None
        if fence:
            held.append(line)
            if mark and mark[1].startswith(fence):
                yield from _paragraph(held, begin)
                held, fence = [], ""
            continue
        heading = HEADING.match(line) if is_markdown else None
        if heading or not line.strip():
            yield from _paragraph(held, begin)
            held = []
            if heading and heading[2]:
                yield Block(heading[2], f"line {number}", len(heading[1]))
            continue
        under = UNDERLINE.match(line) if is_markdown and len(held) == 1 else None
        if under:
            yield Block(held[0].strip(), f"line {begin}", 1 if under[1][0] == "=" else 2)
            held = []
            continue
        begin = begin if held else number
        held.append(line)
        fence = mark[1] if mark else ""
    yield from _paragraph(held, begin)  # of a fence that is never closed


def _paragraph(lines: list[str], begin: int) -> Iterator[Block]:
    text = "\n".join(line.rstrip() for line in lines).strip("\n")
    if text.strip():
        yield Block(text, f"line {begin}")
