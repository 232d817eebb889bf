"""What a browser makes of a page, for tests without one."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path


class ParsedPage(HTMLParser):
    """tags: count by name. handlers: attributes that run code. links: values of href and src."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed_page(path: Path) -> ParsedPage:
    return ParsedPage(path.read_text(encoding="utf-8"))
