"""A chart on a page: title, note, a drawing for wide and one for narrow screens, and a table of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.pages.drawing import NARROW, WIDE, Drawing, svg
from pipeline.pages.phrases import Phrase, html_of, phrase

Rows = Iterable[Sequence[Any]]


class Figure:
    """draw: makes the drawing for a width. note: text below the title. head, rows: the table of numbers."""

    def __init__(
        self, draw: Callable[[float], Drawing], note: str = "", head: Sequence[str] = (), rows: Rows = ()
    ) -> None:
        self.drawing = draw(WIDE)
        self.drawing.note = self.drawing.note or note
        self._narrow = draw(NARROW)
        self._table = table(head, rows) if head else ""

    def html(self) -> str:
        name, note = self.drawing.name, self.drawing.note
        caption = f"<p>{html_of(note)}</p>" if note else ""
        summary = f"<summary>{html_of(phrase('numbers'))}</summary>"
        numbers = f'<details class="numbers">{summary}{self._table}</details>' if self._table else ""
        return (
            f'<figure class="chart {name.split("-")[0]}" id="chart-{name}"><figcaption>'
            f"<h3>{html_of(self.drawing.title)}</h3>{caption}</figcaption>"
            f"{svg(self.drawing, 'wide')}{svg(self._narrow, 'narrow')}{numbers}</figure>"
        )


def number(head: str) -> str:
    """The head of a column of numbers: # before it, in both languages."""
    return Phrase(f"#{head}", f"#{head.korean}") if isinstance(head, Phrase) else f"#{head}"


def table(head: Sequence[str], rows: Rows) -> str:
    """An HTML table. A column whose head begins with # holds numbers; without any head there is no header row. The
    first cell of a row is its header."""
    right = [cell.startswith("#") for cell in head]
    top = "".join(
        f'<th scope="col"{" class=n" if is_number else ""}>{html_of(_plain(cell))}</th>'
        for is_number, cell in zip(right, head, strict=True)
    )
    body = "".join(f"<tr>{_cells(right, row)}</tr>" for row in rows)
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="scroll" tabindex="0"><table>{top}<tbody>{body}</tbody></table></div>'


def _plain(head: str) -> str:
    return Phrase(head.lstrip("#"), head.korean.lstrip("#")) if isinstance(head, Phrase) else head.lstrip("#")


def _cells(right: Sequence[bool], row: Sequence[Any]) -> str:
    cells = []
    for place, (is_number, cell) in enumerate(zip(right, row, strict=True)):
        tag, scope = ("td", "") if place else ("th", ' scope="row"')
        cells.append(f"<{tag}{scope} class={'n' if is_number else 'long'}>{html_of(cell)}</{tag}>")
    return "".join(cells)
