"""A piece of a document: what every reader gives."""

from __future__ import annotations

from dataclasses import dataclass


class Unreadable(Exception):
    """A document cannot be read; the text says why and what to do, such as `encrypted; remove its password`."""


@dataclass(frozen=True)
class Block:
    """A heading, a paragraph, a list, a table or a block of code.

    Attributes:
        text: its lines, without marks of the format.
        level: of a heading, from 1; 0 for all else.
        place: where it begins, such as `line 12` or `page 3`.
    """

    text: str
    place: str
    level: int = 0
