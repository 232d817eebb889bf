"""The pages of the documentation as the tests read them: text, headings, links, blocks of code, words in backticks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. language: the word behind the fence. page: its path below the root."""

    language: str
    text: str
    page: str


def pages() -> list[Path]:
    """README.md and every page in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    return [Block(language, text, name_of(page)) for language, text in FENCE.findall(page.read_text())]


def prose(page: Path) -> str:
    """The text without fenced blocks."""
    return FENCE.sub("", page.read_text())


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures, except addresses on the web."""
    yield from (target for target in LINK.findall(CODE.sub("", prose(page))) if "://" not in target)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings as GitHub makes them: a repeated heading gets -1, -2, ..."""
    seen: dict[str, int] = {}
    result = set()
    for heading in HEADING.findall(prose(page)):
        text = LINK.sub(lambda m: m[0][m[0].index("[") + 1 : m[0].index("]")], heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result
