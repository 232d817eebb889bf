"""Writes the tables of docs/config.md from the schema: `python -m scripts.config_reference`.

What stands above the mark in that file is written by hand and stays.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.command import guarded
from pipeline.config.reference import Entry, Table, tables
from pipeline.run.files import write_text
from pipeline.run.progress import say

PAGE = Path(__file__).parents[1] / "docs" / "config.md"
MARK = "<!-- Written by `python -m scripts.config_reference` from pipeline/config; change the docstrings there. -->\n"


def page(text: str) -> str:
    """The page with new tables in place of all that follows the mark."""
    by_hand = text.partition(MARK)[0]
    titles = [_title(table.place) for table in tables()]
    contents = ", ".join(f"[{title}](#{_anchor(title)})" for title in titles)
    return "\n".join([by_hand + MARK, f"Sections: {contents}.", "", *map(_section, tables())])


def _section(table: Table) -> str:
    rows = [_row(entry, table.place) for entry in table.entries]
    head = ["| key | type | default | what it is, *and when to change it* |", "|---|---|---|---|"]
    about = [_cell(table.about), ""] if table.about else []
    if table.place.endswith(".N"):
        place = table.place.removesuffix(".N")
        about += [
            f"An item of the list `{place}`; on the command line items are counted from 0: `{place}.0.path=FILE`.",
            "",
        ]
    return "\n".join([f"## {_title(table.place)}", "", *about, *head, *rows, ""])


def _title(place: str) -> str:
    return f"`{place.replace('.N', '[]')}`" if place else "Top level"


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")


def _row(entry: Entry, place: str) -> str:
    name = entry.key.removeprefix(f"{place}.") if place else entry.key
    default = "required" if entry.default is None else f"`{entry.default}`"
    cells = (f"`{name}`", _cell(entry.type), default, f"{_cell(entry.what)} *{_cell(entry.when)}*")
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text in a table: code stays as it is, other marks of Markdown are escaped, pages are linked."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"[|<*]", r"\\\g<0>", part) for part in parts[::2]]
    return re.sub(r"\bdocs/((\w+)\.md)", r"[\2](\1)", "".join(parts))


def main() -> None:
    before = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, page(before))
    say(f"written: {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
