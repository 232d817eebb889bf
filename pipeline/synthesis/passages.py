"""Cuts documents into passages, at headings where there are any, else between paragraphs, else between sentences.

    heading  par par par | heading par | par par par(changed) par | par par par
                         passage       passage                    passage

Where a text goes on without headings, a cut is made where the hash of the paragraph before it is the smallest within
half of a passage's length. So cuts depend on the text around them alone, and a change moves only those near it
(content-defined chunking: Muthitacharoen et al. 2001, "A Low-bandwidth Network File System").
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.files import sha256_json
from pipeline.synthesis.documents.block import Block
from pipeline.synthesis.documents.read import Document

FEWEST = 30  # letters of a passage; with fewer there is nothing to ask
SECTION = 0.25  # of the longest passage: from this length on a heading begins a new one
CUT = 0.5  # of the longest passage: from this length on there may be a cut without a heading
SENTENCE = re.compile(r"(?<=[.!?。！？…])[\"'”’)\]」』]*\s+|(?<=[。！？])|\n+")
PARAGRAPHS = "\n\n"


@dataclass(frozen=True)
class Passage:
    """A part of a document that questions are asked about.

    Attributes:
        text: its paragraphs. headings: that it is under, the outermost first.
        document: the file. place: where it begins.
    """

    text: str
    headings: tuple[str, ...]
    document: str
    place: str

    @functools.cached_property
    def key(self) -> str:
        """Hash of its text and headings, 16 hex digits: the same wherever the passage is."""
        return sha256_json([self.headings, self.text])[:16]


@dataclass(frozen=True)
class Unit:
    """What is never cut: a paragraph, or a sentence of a long one. before: the signs between it and the unit before.
    new: headings that stand between the two."""

    text: str
    place: str
    before: str
    headings: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.text) + sum(len(heading) + len(PARAGRAPHS) for heading in self.new)

    @property
    def rank(self) -> bytes:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest()


def passages(documents: Sequence[Document], longest: int) -> list[Passage]:
    """The passages of documents in their order, each text once, of at most `longest` characters, headings aside."""
    found: dict[str, Passage] = {}
    for document in documents:
        name = _portable(document.path)
        for passage in _cut(list(_units(document.blocks, int(longest * CUT))), name, longest):
            if sum(c.isalpha() for c in passage.text) >= FEWEST:
                found.setdefault(passage.key, passage)
    return list(found.values())


def _portable(path: Path) -> str:
    """The file as seen from here; one elsewhere on the machine by its name alone, since rows may be published."""
    name = os.path.relpath(path)
    return path.name if name.startswith("..") else Path(name).as_posix()


def _units(blocks: Sequence[Block], most: int) -> Iterator[Unit]:
    trail: list[Block] = []
    new: list[str] = []
    for block in blocks:
        if block.level:
            trail = [*(heading for heading in trail if heading.level < block.level), block]
            new.append(block.text)
            continue
        before = PARAGRAPHS
        for text, space in _pieces(block.text, most):
            yield Unit(text, block.place, before, tuple(heading.text for heading in trail), tuple(new))
            before, new = space, []


def _pieces(text: str, most: int) -> Iterator[tuple[str, str]]:
    """A paragraph, or the sentences of one that is longer than `most`, each with the space behind it."""
    if len(text) <= most:
        yield text, ""
        return
    start = 0
    for match in [*SENTENCE.finditer(text), None]:
        end = match.end() if match else len(text)
        sentence = text[start:end]
        start = end
        space = sentence[len(sentence.rstrip()) :]
        yield from _parts(sentence.rstrip(), space, most)


def _parts(sentence: str, space: str, most: int) -> Iterator[tuple[str, str]]:
    """A sentence, cut between words where it is longer than `most`."""
    while len(sentence) > most:
        at = sentence.rfind(" ", 1, most) + 1 or most
        yield sentence[:at].rstrip(), " " if sentence[at - 1] == " " else ""
        sentence = sentence[at:]
    if sentence:
        yield sentence, space


def _cut(units: Sequence[Unit], document: str, longest: int) -> Iterator[Passage]:
    begin = 0
    while begin < len(units):
        end = _end(units, begin, longest)
        yield _passage(units[begin:end], document)
        begin = end


def _end(units: Sequence[Unit], begin: int, longest: int) -> int:
    """Where the passage that begins with a unit ends."""
    size, cuts = len(units[begin].text), list[int]()
    for number in range(begin + 1, len(units)):
        unit = units[number]
        if unit.new and size >= SECTION * longest:
            return number
        if size + unit.size > longest:
            paragraphs = [cut for cut in cuts if units[cut].before == PARAGRAPHS] if len(cuts) > 1 else cuts
            return min(paragraphs or cuts or [number], key=lambda cut: units[cut - 1].rank)
        size += unit.size
        if size >= CUT * longest:
            cuts.append(number + 1)
    return len(units)


def _passage(units: Sequence[Unit], document: str) -> Passage:
    shared = _shared([unit.headings for unit in units])
    text = PARAGRAPHS.join((*units[0].headings[len(shared) :], units[0].text))
    for unit in units[1:]:
        text += (
            "".join(PARAGRAPHS + heading for heading in unit.new)
            + (PARAGRAPHS if unit.new else unit.before)
            + unit.text
        )
    return Passage(text, shared, document, units[0].place)


def _shared(trails: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The headings that all trails begin with."""
    same = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*trails, strict=False))
    return tuple(level[0] for level in same)
