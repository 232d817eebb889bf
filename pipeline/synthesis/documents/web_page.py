"""HTML as blocks, with the parser of the standard library: what a reader sees, without menus, scripts and forms.

Where a page says which part of it is the text (`<main>`, or one `<article>`), only that is read.
"""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser

from pipeline.run.encoding import likely_encoding
from pipeline.synthesis.documents.block import Block, Unreadable

HEAD = 2048  # bytes in which a page names its encoding
CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
XML = re.compile(rb"""<\?xml[^>]+encoding\s*=\s*["']([\w.:-]+)""")
# Windows writes CP949 and CP1252 and calls them by the names of the smaller sets (WHATWG Encoding Standard).
WIDER = {"euc-kr": "cp949", "ks_c_5601-1987": "cp949", "iso-8859-1": "cp1252", "ascii": "cp1252", "us-ascii": "cp1252",
         "shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030"}  # fmt: skip

DEEPEST = 2000  # open tags; each tag looks through them

HEADINGS = {f"h{level}": level for level in range(1, 7)}
LEFT_OUT = {"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "nav", "footer", "aside",
            "form", "button", "select", "textarea", "dialog", "menu", "canvas", "audio", "video", "head"}  # fmt: skip
BREAKS = {"p", "div", "section", "article", "main", "ul", "ol", "dl", "table", "blockquote", "pre", "header", "hr",
          "address", "details", "summary", "fieldset", "body", "figcaption"}  # fmt: skip
LINES = {"br", "li", "tr", "dt", "dd", "caption"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# Elements that HTML lets stand without an end tag: what ends where one begins.
CLOSED_BY: dict[str, tuple[str, ...]] = {
    "p": ("p",), "li": ("li", "p"), "dt": ("dt", "dd", "p"), "dd": ("dd", "dt", "p"), "td": ("td", "th", "p"),
    "th": ("th", "td", "p"), "tr": ("tr", "td", "th", "p"), "option": ("option",),
}  # fmt: skip
CONTAINERS = {"ul", "ol", "dl", "table", "div", "section", "article", "main", "blockquote", "body", "select"}
CELLS = re.compile(r"(?: ?\| ?)+$")  # signs behind the last cell of a row


def decoded(data: bytes) -> str:
    """The text of a page in the encoding that it names, else UTF-8.

    Raises:
        Unreadable: it is in neither.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    named = CHARSET.search(data, 0, HEAD) or XML.match(data)
    name = named[1].decode("ascii").lower() if named else "utf-8"
    for coding in dict.fromkeys(("utf-8-sig", WIDER.get(name, name))):  # many pages that name another one are in UTF-8
        try:
            return data.decode(coding)
        except (UnicodeDecodeError, LookupError):
            continue
    likely = likely_encoding(data)
    looks = f"; it looks like {likely}: iconv -f {likely} -t UTF-8" if likely else "; save it as UTF-8"
    raise Unreadable(f"not in the encoding that it names ({name}){looks}")


def blocks(text: str) -> list[Block]:
    """The blocks of a page, each with the line in which it begins.

    Raises:
        Unreadable: it cannot be parsed, or is nested too deeply.
    """
    page = Page()
    try:
        page.feed(text)
        page.close()
    except AssertionError as error:  # the library's answer to some declarations, such as <![x
        raise Unreadable(f"no HTML that can be parsed ({error})") from None
    page.end_block()
    for within in ("main", "article"):
        if page.parts.get(within) == 1 and (inside := [block for block, parts in page.blocks if within in parts]):
            return inside
    return [block for block, _ in page.blocks]


class Page(HTMLParser):
    """Collects blocks.

    Attributes:
        blocks: with the names of the parts (`main`, `article`) around each. parts: number of each.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[Block, frozenset[str]]] = []
        self.parts: dict[str, int] = {}
        self._open: list[str] = []
        self._hidden = 0
        self._text: list[str] = []
        self._begin = 0
        self._within: frozenset[str] = frozenset()
        self._is_code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            self._at_tag(tag)
            return
        if tag in CLOSED_BY:
            self._close_unclosed(tag)
        self._at_tag(tag)
        given = dict(attrs)
        self._open.append(tag)
        if len(self._open) > DEEPEST:
            raise Unreadable(f"its tags are nested more than {DEEPEST:,} deep")
        if self._hidden or tag in LEFT_OUT or "hidden" in given or given.get("aria-hidden") == "true":
            self._hidden += 1
        elif tag in ("main", "article"):
            self.parts[tag] = self.parts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._open:
            return
        while self._open:
            last = self._open.pop()
            self._at_tag(last, is_end=True)
            if self._hidden:
                self._hidden -= 1
            if last == tag:
                break

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if not self._text and data.strip():
            self._begin = self.getpos()[0] + data[: len(data) - len(data.lstrip())].count("\n")
            self._within, self._is_code = frozenset(self._open) & {"main", "article"}, "pre" in self._open
        self._text.append(data if "pre" in self._open else re.sub(r"\s+", " ", data))

    def end_block(self, level: int = 0) -> None:
        """Ends the block that is being read."""
        text = "".join(self._text)
        self._text = []
        lines = [line.rstrip() if self._is_code else CELLS.sub("", line.strip(" ")) for line in text.split("\n")]
        text = "\n".join(line for line in lines if line.strip())
        if text.strip():
            block = Block(" ".join(text.split()) if level else text, f"line {self._begin}", level)
            self.blocks.append((block, self._within))

    def _at_tag(self, tag: str, is_end: bool = False) -> None:
        """What a tag means for the text: the end of a block, of a line, or of a cell."""
        if self._hidden and tag not in BREAKS:
            return
        if tag in HEADINGS:
            self.end_block(HEADINGS[tag] if is_end else 0)
        elif tag in BREAKS:
            self.end_block()
        elif tag in LINES and self._text:
            self._text.append("\n")
        elif tag in ("td", "th") and is_end and self._text:
            self._text.append(" | ")
        if tag == "li" and not is_end:
            self._text.append("- ")

    def _close_unclosed(self, tag: str) -> None:
        """Ends an element whose end tag HTML lets out, where the next one of its kind begins."""
        for name in reversed(self._open):
            if name in CLOSED_BY[tag]:
                self.handle_endtag(name)
                if name == tag:
                    return
            elif name in CONTAINERS:
                return
