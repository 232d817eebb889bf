"""What a misspelt word was meant to be: the names most like it, as a hint for an error's fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

ALIKE = 0.6  # difflib's ratio from which two words are alike: 1 for the same, 0 for no letter in common
LONGEST = 200  # letters of a word that are compared; more are no slip of the keyboard


def closest(word: str, known: Iterable[str], most: int = 1, alike: float = ALIKE) -> list[str]:
    """The names most like a word, the nearest first; at most so many, none when nothing is alike."""
    return difflib.get_close_matches(word[:LONGEST], list(known), most, alike)


def nearest(word: str, known: Iterable[str], otherwise: str = "", alike: float = ALIKE) -> str:
    """`did you mean NAME?` for the name most like a word; `otherwise` when nothing is alike."""
    return _question(closest(word, known, alike=alike), otherwise)


def nearest_file(path: Path, otherwise: str = "", pattern: str = "*", most: int = 1) -> str:
    """`did you mean PATH?` for the files in the same folder whose names are most like a missing one's."""
    names = sorted(p.name for p in path.parent.glob(pattern)) if path.parent.is_dir() else []
    return _question([str(path.parent / name) for name in closest(path.name, names, most)], otherwise)


def _question(names: list[str], otherwise: str) -> str:
    return f"did you mean {' or '.join(names)}?" if names else otherwise
