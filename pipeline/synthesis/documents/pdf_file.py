"""PDF as blocks, by PDFium (package pypdfium2, extra `documents`): the text of its pages, in their order.

PDFium knows the character tables of Korean, Japanese and Chinese fonts that are not embedded (KSCms-UHC-H and the
like), which old Korean files need. Lines are joined to paragraphs by their lengths, and lines that nearly every page
has at its head or foot are left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.synthesis.documents.block import Block, Unreadable

MOST_PAGES = 5000
FEWEST_LETTERS = 10  # in the whole file; with fewer it is pictures of text
UNREADABLE = 0.1  # share of characters without a meaning from which the text is of no use
SHORT = 0.75  # of the usual length of a page's lines; a shorter line that ends a sentence ends its paragraph
REPEATED = 0.6  # share of pages from which a line at head or foot is no text
FEWEST_PAGES = 4  # with which that is decided
EDGE = 2  # lines at head and foot
HYPHEN = re.compile("[\ufffe\x02]\\s*|(?<=[a-z])-\n(?=[a-z])")  # PDFium's signs for a hyphen at a line's end
END = re.compile(r"[.!?。！？:…][\"'”’)\]]*$")
SCAN = "no text in it, perhaps a scan; run OCR over it, such as ocrmypdf"


def blocks(path: Path) -> list[Block]:
    """The paragraphs of a file, each with the page on which it begins.

    Raises:
        Unreadable: encrypted, damaged, too long, or without text.
    """
    pages = _texts(path)
    text = "".join(pages)
    if sum(c.isalpha() for c in text) < FEWEST_LETTERS:
        raise Unreadable(SCAN)
    strange = sum(unicodedata.category(c) in ("Co", "Cn") or c == "\ufffd" for c in text)
    if strange > UNREADABLE * len(text):
        raise Unreadable("its fonts do not say which letters they show; run OCR over it, such as ocrmypdf --force-ocr")
    return list(_blocks([[line.strip() for line in page.split("\n") if line.strip()] for page in pages]))


def _texts(path: Path) -> list[str]:
    """The text of each page."""
    import pypdfium2 as pdfium

    try:
        document: Any = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise Unreadable("encrypted; remove its password, such as with qpdf --decrypt") from None
        raise Unreadable(f"damaged, or no PDF ({error}); save it again") from None
    try:
        if len(document) > MOST_PAGES:
            raise Unreadable(f"{len(document):,} pages; split it into files of at most {MOST_PAGES:,}")
        return [_page(document[number]) for number in range(len(document))]
    except pdfium.PdfiumError as error:
        raise Unreadable(f"damaged ({error}); save it again") from None
    finally:
        document.close()


def _page(page: Any) -> str:
    text = page.get_textpage()
    try:
        return HYPHEN.sub("", text.get_text_range().replace("\r\n", "\n").replace("\r", "\n"))
    finally:
        text.close()
        page.close()


def _blocks(pages: Sequence[list[str]]) -> Iterator[Block]:
    left_out = _repeated(pages)
    held, begin = list[str](), 1
    for number, page in enumerate(pages, 1):
        lines = [line for line in page if _pattern(line) not in left_out]
        usual = sorted(map(len, lines))[int(len(lines) * 0.8)] if lines else 0
        for line in lines:
            begin = begin if held else number
            held.append(line)
            if END.search(line) and len(line) < SHORT * usual:
                yield Block("\n".join(held), f"page {begin}")
                held = []
    if held:
        yield Block("\n".join(held), f"page {begin}")


def _repeated(pages: Sequence[list[str]]) -> set[str]:
    """Patterns of lines that stand at the head or foot of most pages: titles and page numbers."""
    if len(pages) < FEWEST_PAGES:
        return set()
    edges = Counter(pattern for page in pages for pattern in {_pattern(line) for line in (*page[:EDGE], *page[-EDGE:])})
    return {pattern for pattern, count in edges.items() if count >= REPEATED * len(pages)}


def _pattern(line: str) -> str:
    return re.sub(r"\d+", "0", line)
