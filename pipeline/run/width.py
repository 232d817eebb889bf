"""Lines of at most 78 columns: how wide text is on a terminal, and where a long line is broken.

A window of 80 columns is the narrowest that people use; two columns are left for a prompt or a quotation mark.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

WIDTH = 78
HANGING = 2  # columns by which the rest of a broken line is indented further
# A line that is a command as a whole: broken into lines it could not be copied.
COMMAND = re.compile(r" *(?:\S+=\S+ )?(?:make|suri) [a-z-]+(?: (?:[A-Za-z_.]+=.*|--.*|\S+\.ya?ml.*))?")
WORD = re.compile(r"( *)(`[^`\n]*`[^\s`]*|\S+)")  # a command between backquotes stays on one line, to be copied


def columns(text: str) -> int:
    """Columns of a text on a terminal: two for Hangul, Chinese and most emoji, none for combining marks."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) or c == "\u200d" else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def wrapped(text: str, hanging: int = HANGING, width: int = WIDTH) -> str:
    """The text with lines of at most `width` columns, broken at spaces. A longer word, such as a path, stays whole
    and where it is.

    Rows of a Markdown table, which begin with `|`, are not broken, nor are commands.

    Args:
        hanging: columns by which continued lines are indented, more than the line itself.
    """
    return "\n".join(
        line
        if columns(line) <= width or line.startswith("|") or COMMAND.fullmatch(line)
        else _broken(line, hanging, width)
        for line in text.split("\n")
    )


def _broken(line: str, hanging: int, width: int) -> str:
    lines, current = [], ""
    indent = " " * (len(line) - len(line.lstrip(" ")) + hanging)
    for spaces, word in WORD.findall(line):
        fits_below = len(indent) + columns(word) <= width
        if current.strip() and fits_below and columns(current) + len(spaces) + columns(word) > width:
            lines.append(current)
            current = indent + word
        else:
            current += spaces + word
    return "\n".join([*lines, current])


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Cells as columns. Rows that would be wider than `WIDTH` give their first cell a line of its own.

    Args:
        left: how many columns are aligned to the left; the others are to the right.
    """
    widths = [max(map(columns, cells)) for cells in zip(*rows, strict=True)]
    is_wide = sum(widths) + 2 * (len(widths) - 1) > WIDTH
    lines = []
    for row in rows:
        cells = [padded(c, w, right=i >= left) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        if is_wide:
            lines += [clipped(row[0], WIDTH)] if row[0] else []
            cells = ["", *cells[1:]]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def clipped(text: str, most: int) -> str:
    """The text in one line of at most so many columns; `...` stands for what is left out."""
    flat = " ".join(text.split())
    if columns(flat) <= most:
        return flat
    while columns(flat) > most - 3:
        flat = flat[: -max(1, (columns(flat) - most + 3) // 2)]
    return flat + "..."


def excerpt(text: str, most: int) -> str:
    """The beginning of the text in one line of at most so many characters; `…` stands for what is left out."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def small(number: float, digits: int = 1) -> str:
    """A small number as a person writes it: `7e-8`, `1.2e-8`."""
    text = f"{number:.{digits - 1}e}" if number else "0"
    return re.sub(r"e([+-])0*(?=\d)", lambda match: "e-" if match[1] == "-" else "e", text)


def padded(text: str, width: int, right: bool = False) -> str:
    """The text with spaces up to so many columns, on the left with `right`."""
    spaces = " " * max(0, width - columns(text))
    return spaces + text if right else text + spaces
