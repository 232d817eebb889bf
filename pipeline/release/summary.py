"""What the terminal says of an export: its table of results, its headline, and that it is unfinished. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.run.files import read_json
from pipeline.run.folder import HELD_OUT, Run
from pipeline.run.width import WIDTH, clipped, columns, padded


def table(rows: Sequence[tuple[str, str, str]], names: tuple[str, str]) -> str:
    """The results as aligned text of at most `WIDTH` columns.

    Args:
        rows: (what, base, tuned) each; `held-out rows: loss` and `held-out rows: exact match` get a common heading.
        names: headings of the two columns.
    """
    widths = [
        2 + max(columns(cell) for cell in column) for column in zip(names, *(row[1:] for row in rows), strict=True)
    ]
    room = WIDTH - sum(widths)

    def line(label: str, *cells: str) -> str:
        cut = clipped(label, room) if columns(label) > room else label
        values = [padded(cell, width, right=True) for cell, width in zip(cells, widths, strict=True)]
        return padded(cut, room) + "".join(values)

    lines = [line("", *names)]
    for heading, group in itertools.groupby(rows, lambda row: row[0].rpartition(": ")[0]):
        several = list(group)
        if not heading or len(several) == 1:
            lines += [line(*row) for row in several]
        else:
            lines += [heading, *(line(f"  {row[0].rpartition(': ')[2]}", *row[1:]) for row in several)]
    return "\n".join(lines)


def headline(results: Mapping[str, Any]) -> str:
    """`exact match 3.1% -> 84.4%, loss 2.034 -> 0.321 (64 held-out rows)`; empty without held-out rows."""
    base, tuned = results.get("base", {}), results.get("tuned", {})
    for split, name in HELD_OUT.items():
        before, after = base.get(split), tuned.get(split)
        if not before or not after:
            continue
        parts = [f"loss {before['loss']:.3f} -> {after['loss']:.3f}"]
        if "exact" in before and "exact" in after:
            parts.insert(0, f"exact match {before['exact']:.1%} -> {after['exact']:.1%}")
        where = "held-out rows" if split == "val" else f"rows of {name}"
        return f"{', '.join(parts)} ({after['rows']} {where})"
    return ""


def unfinished_text(unfinished: Mapping[str, Any]) -> str:
    """What an export says whose answers do not end by themselves."""
    return (
        f"answers do not end by themselves yet: {unfinished['stopped']} of {unfinished['of']} do, within "
        f"{unfinished['limit']} tokens; export.min_eos asks for {unfinished['wanted']:.0%}"
    )


def of_run(run: Run) -> list[str]:
    """Headline of a finished export, and that it is unfinished; nothing where there are no results."""
    results = read_json(run.folder("export") / "results.json")
    if not isinstance(results, dict):
        return []
    lines = [f"export: {headline(results)}"] if headline(results) else []
    if unfinished := results.get("unfinished"):
        lines.append(f"export: UNFINISHED: {unfinished_text(unfinished)}")
    return lines
