"""Charts of the data report, each drawn from its numbers for a width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pipeline.data_report.numbers import share
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.dataset.summary import label_of
from pipeline.pages.charts import GUTTER, Bar, add_bars, bars
from pipeline.pages.drawing import Drawing, Line, Rect, Text, fitted

SPLITS = (("train", "accent", "train"), ("val", "accent-2", "val"), ("holdout", "accent-3", "held-out tasks"))
ACTIONS = (("rejected", "warn", "rejected"), ("fixed", "accent", "fixed"), ("flagged", "neutral", "flagged"))
MOST = 25  # bars of one chart; rarer entries share one bar


def flow(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Rows read = kept + rejected + left out, to scale; below, those not kept, magnified, by reason."""
    drawing = Drawing("flow", width, 0, "From rows read to rows learnt", "Rows read, kept, and rejected by each rule")
    read, kept, gone, left = (numbers[name] for name in ("read", "kept", "rejected", "left_out"))
    rows = [
        Bar(name, [(n, "accent", f"{n:,} rows {name}")], f"{n:,}", bold=True)
        for name, n in (("read", read), ("kept", kept))
    ]
    start = 0
    for key, colour, label in SPLITS:
        if numbers[key]:
            tip = f"{label}: {numbers[key]:,} rows ({share(numbers[key], read)} of those read)"
            rows.append(Bar(label, [(numbers[key], colour, tip)], f"{numbers[key]:,}", start, inset=14))
            start += numbers[key]
    if not gone:
        return bars(drawing, rows)
    start = kept
    for n, colour, name in ((gone - left, "warn", "rejected"), (left, "neutral", "left out")):
        if n:
            tip = f"{name}: {n:,} rows ({share(n, read)} of those read)"
            rows.append(Bar(name, [(n, colour, tip)], f"{n:,}", start, bold=True))
            start += n
    scale = add_bars(drawing, rows, 2.0)
    top, bottom = drawing.height + 3, drawing.height + 40
    drawing.add(Text(14, top + 15, "magnified", 12, "soft"))
    reasons, start = [], 0
    for step in (step for step in numbers["flow"] if step["kind"] == "minus"):
        n, name = step["rows"], step["name"]
        colour = "neutral" if name in LEFT_OUT else "warn"
        tip = f"{name}: {n:,} rows ({share(n, gone)} of those not kept)"
        reasons.append(Bar(name, [(n, colour, tip)], f"{n:,}", start, _anchor(numbers, name), inset=14))
        start += n
    magnified = add_bars(drawing, reasons, bottom + 3)
    edge = min(scale.left + kept * scale.unit, scale.right - 1.5)
    for above, below in ((edge, magnified.left), (scale.right, magnified.right)):
        drawing.add(Line(above, top, below, bottom, "neutral", dashed=True))
    return drawing


def _anchor(numbers: Mapping[str, Any], rule: str) -> str:
    """Id of the rule's place on the page; steps that sum up several rules have none."""
    return f"rule-{rule}" if any(r["rule"] == rule for r in numbers["rules"]) else ""


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """Short names for sources: the file's name where that tells them apart."""
    ends = Counter(PurePath(path).name for path in paths)
    return {p: PurePath(p).name if ends[PurePath(p).name] == 1 and PurePath(p).name else p for p in paths}


def sources(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Rows of each source by split, left out and rejected."""
    drawing = Drawing("sources", width, 0, "What became of each source", "Rows of each source by where they went")
    rows, names = [], names_of([label_of(source) for source in numbers["sources"]])
    for source in numbers["sources"][:MOST]:
        pieces = [
            (source.get(key, 0), colour, f"{label}: {source.get(key, 0):,} rows") for key, colour, label in SPLITS
        ]
        left = source.get("left_out", 0)
        pieces.append((left, "neutral", f"left out: {left:,} rows"))
        bad = max(source["read"] - sum(n for n, _, _ in pieces), 0)
        pieces.append((bad, "warn", f"rejected: {bad:,} rows"))
        label = label_of(source)
        rows.append(Bar(names[label], pieces, f"{source['read']:,}", tip=label))
    legend = [(c, label) for key, c, label in SPLITS if any(s.get(key) for s in numbers["sources"])]
    if any(s.get("left_out") for s in numbers["sources"]):
        legend.append(("neutral", "left out by limits or mixture"))
    return bars(drawing, rows, [*legend, ("warn", "rejected")])


def rules(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Rows that each rule rejected, fixed or flagged."""
    drawing = Drawing("rules", width, 0, "What each rule did", "Rows rejected, fixed or flagged by each rule")
    rows = []
    for rule in (rule for rule in numbers["rules"] if rule["rule"] not in LEFT_OUT):
        done = [(int(rule.get(key) or 0), colour, label) for key, colour, label in ACTIONS]
        pieces = [(n, colour, f"{rule['rule']}: {n:,} {label}") for n, colour, label in done]
        if any(n for n, _, _ in done):
            rows.append(Bar(rule["rule"], pieces, f"{sum(n for n, _, _ in done):,}", link=f"rule-{rule['rule']}"))
    return bars(drawing, rows, [(colour, label) for _, colour, label in ACTIONS])


def counts(rows_by_name: Mapping[str, int], width: float, name: str, title: str) -> Drawing:
    """One bar for each name, the most common first."""
    drawing = Drawing(name, width, 0, title, title)
    total = sum(rows_by_name.values())
    items = sorted(rows_by_name.items(), key=lambda item: (-item[1], item[0]))
    bars_shown = [
        Bar(label, [(n, "accent", f"{label}: {n:,} rows ({share(n, total)})")], f"{n:,}") for label, n in items[:MOST]
    ]
    if items[MOST:]:
        rest = sum(n for _, n in items[MOST:])
        bars_shown.append(Bar(f"{len(items) - MOST} more", [(rest, "neutral", f"{rest:,} rows")], f"{rest:,}"))
    return bars(drawing, bars_shown)


def mix(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Each source's share of the training rows, repeats counted."""
    drawing = Drawing("mix", width, 0, "Share of the training rows", "Share of the training rows by source")
    rows, names = [], names_of([line["source"] for line in numbers["mix"]])
    for line in numbers["mix"][:MOST]:
        times = f", each {line['repeat']} times" if line["repeat"] != 1 else ""
        tip = f"{line['taken']:,} of {line['available']:,} rows{times}: {line['share']:.1%}"
        rows.append(
            Bar(names[line["source"]], [(line["share"], "accent", tip)], f"{line['share']:.1%}", tip=line["source"])
        )
    return bars(drawing, rows)


def groups_of_duplicates(numbers: Mapping[str, Any], width: float) -> Drawing:
    """How many groups there are of each size."""
    drawing = Drawing(
        "groups", width, 0, "Groups of duplicates by size", "Number of groups by how many rows are in them"
    )
    rows = [
        Bar(
            f"{s['size']} rows", [(s["groups"], "accent", f"{s['groups']:,} groups of {s['size']}")], f"{s['groups']:,}"
        )
        for s in numbers["duplicates"]["sizes"]
    ]
    return bars(drawing, rows)


def contamination(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Benchmark by source, each cell darker the more rows hold one of its questions."""
    table = numbers["contamination"]["table"]
    columns = list(dict.fromkeys(source for row in table.values() for source in row))[:8]
    title = "Rows that hold a test question"
    drawing = Drawing("contamination", width, 0, title, f"{title}, by benchmark and source")
    wide = width > 500
    left, high = (GUTTER, 30) if wide else (112, 30)
    cell = min((width - left) / max(len(columns), 1), 150)
    most = max((n for row in table.values() for n in row.values()), default=0)
    names = names_of(columns)
    for number, source in enumerate(columns):
        x = left + number * cell
        drawing.add(Text(x + cell / 2, 14, fitted(names[source], 12, cell - 8), 12, "soft", "middle", tip=source))
    for number, (benchmark, row) in enumerate(table.items()):
        y = 24 + number * (high + 3)
        drawing.add(Text(0, y + 20, fitted(benchmark, 13, left - 12), 13, tip=benchmark))
        for place, source in enumerate(columns):
            n = int(row.get(source) or 0)
            dark = n > most / 2
            fill = "grid" if not n else "accent" if dark else "accent-3" if n <= most / 8 else "accent-2"
            tip = f"{benchmark} in {source}: {n:,} rows"
            drawing.add(Rect(left + place * cell, y, cell - 3, high, fill, tip, "hits" if n else ""))
            ink = "paper" if dark else "ink" if n else "soft"
            drawing.add(Text(left + place * cell + (cell - 3) / 2, y + 20, f"{n:,}", 13, ink, "middle", tip=tip))
    drawing.height = 24 + len(table) * (high + 3)
    return drawing
