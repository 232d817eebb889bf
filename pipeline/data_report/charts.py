"""Charts of the data report, each drawn from its numbers for a width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pipeline.data_report import findings
from pipeline.data_report.numbers import share
from pipeline.dataset.select.decide import LEFT_OUT
from pipeline.dataset.summary import label_of
from pipeline.pages.charts import GUTTER, TOUCH, Bar, add_bars, bars
from pipeline.pages.drawing import Drawing, Line, Rect, Text, fitted
from pipeline.pages.phrases import Phrase, phrase

SPLITS = (("train", "accent"), ("val", "accent-2"), ("holdout", "accent-3"))
ACTIONS = (("rejected", "warn"), ("fixed", "accent"), ("flagged", "neutral"))
MOST = 25  # bars of one chart; rarer entries share one bar


def word(key: str) -> Phrase:
    """The page's word for a split, an action of a rule, or another key of the numbers."""
    return phrase(f"word-{key}")


def flow(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Rows read = kept + rejected + left out, to scale; below, those rejected, magnified, by rule."""
    drawing = Drawing("flow", width, 0, findings.flow(numbers), phrase("alt-flow"))
    read, kept, left = (numbers[name] for name in ("read", "kept", "left_out"))
    bad = numbers["rejected"] - left
    rows = [_of_read("read", read, "accent", read, bold=True), _of_read("kept", kept, "accent", read, bold=True)]
    start = 0
    for key, colour in SPLITS:
        if numbers[key]:
            rows.append(_of_read(key, numbers[key], colour, read, start))
            start += numbers[key]
    start = kept
    for key, n, colour in (("left-out", left, "left"), ("rejected", bad, "warn")):
        if n:
            rows.append(_of_read(key, n, colour, read, start, bold=True))
            start += n
    if not bad:
        drawing.x_axis = phrase("axis-rows")
        return bars(drawing, rows)
    scale = add_bars(drawing, rows, 2.0)
    top, bottom = drawing.height + 3, drawing.height + 40
    drawing.add(Text(14, top + 15, phrase("magnified"), 12, "soft"))
    drawing.x_axis = phrase("axis-rows")
    magnified = add_bars(drawing, _reasons(numbers, bad), bottom + 3)
    edge = min(scale.left + (kept + left) * scale.unit, scale.right - 1.5)
    for above, below in ((edge, magnified.left), (scale.right, magnified.right)):
        drawing.add(Line(above, top, below, bottom, "neutral", dashed=True))
    return drawing


def _of_read(key: str, n: int, colour: str, read: int, start: int = 0, bold: bool = False) -> Bar:
    tip = phrase("tip-of-read", name=word(key), rows=f"{n:,}", share=share(n, read))
    return Bar(word(key), [(n, colour, tip)], f"{n:,}", start, bold=bold, inset=0 if bold else 14)


def _reasons(numbers: Mapping[str, Any], bad: int) -> list[Bar]:
    """A bar for each rule that rejected rows. bad: rows rejected in all."""
    reasons, start = [], 0
    for step in (step for step in numbers["flow"] if step["kind"] == "minus" and step["name"] not in LEFT_OUT):
        n, name = step["rows"], step["name"]
        tip = phrase("tip-of-gone", name=name, rows=f"{n:,}", share=share(n, bad))
        reasons.append(Bar(name, [(n, "warn", tip)], f"{n:,}", start, _anchor(numbers, name), inset=14))
        start += n
    return reasons


def _anchor(numbers: Mapping[str, Any], rule: str) -> str:
    """Id of the rule's place on the page; steps that sum up several rules have none."""
    return f"rule-{rule}" if any(r["rule"] == rule for r in numbers["rules"]) else ""


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """Short names for sources: the file's name where that tells them apart."""
    ends = Counter(PurePath(path).name for path in paths)
    return {p: PurePath(p).name if ends[PurePath(p).name] == 1 and PurePath(p).name else p for p in paths}


def sources(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Rows of each source by split, left out and rejected."""
    names = names_of([label_of(source) for source in numbers["sources"]])
    title = findings.sources(numbers, names)
    drawing = Drawing("sources", width, 0, title, phrase("alt-sources"), x_axis=phrase("axis-rows"))
    rows = []
    for source in numbers["sources"][:MOST]:
        parts = [(source.get(key, 0), colour, key) for key, colour in SPLITS]
        parts.append((source.get("left_out", 0), "left", "left-out"))
        parts.append((max(source["read"] - sum(n for n, _, _ in parts), 0), "warn", "rejected"))
        pieces = [(n, colour, phrase("tip-rows", name=word(key), rows=f"{n:,}")) for n, colour, key in parts]
        label = label_of(source)
        rows.append(Bar(names[label], pieces, f"{source['read']:,}", tip=label))
    legend = [(c, word(key)) for key, c in SPLITS if any(s.get(key) for s in numbers["sources"])]
    if any(s.get("left_out") for s in numbers["sources"]):
        legend.append(("left", phrase("left-out-long")))
    return bars(drawing, rows, [*legend, ("warn", word("rejected"))])


def rules(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Rows that each rule rejected, fixed or flagged."""
    drawing = Drawing("rules", width, 0, findings.rules(numbers), phrase("alt-rules"), x_axis=phrase("axis-rows"))
    rows = []
    for rule in (rule for rule in numbers["rules"] if rule["rule"] not in LEFT_OUT):
        done = [(int(rule.get(key) or 0), colour, key) for key, colour in ACTIONS]
        pieces = [(n, colour, phrase("tip-rule", rule=rule["rule"], rows=f"{n:,}", did=word(key)))
                  for n, colour, key in done]  # fmt: skip
        if any(n for n, _, _ in done):
            rows.append(Bar(rule["rule"], pieces, f"{sum(n for n, _, _ in done):,}", link=f"rule-{rule['rule']}"))
    return bars(drawing, rows, [(colour, word(key)) for key, colour in ACTIONS])


def counts(rows_by_name: Mapping[str, int], width: float, name: str, title: str) -> Drawing:
    """One bar for each name, the most common first."""
    drawing = Drawing(name, width, 0, title, title, x_axis=phrase("axis-rows"))
    total = sum(rows_by_name.values())
    items = sorted(rows_by_name.items(), key=lambda item: (-item[1], item[0]))
    bars_shown = [
        Bar(label, [(n, "accent", phrase("tip-share-of-rows", name=label, rows=f"{n:,}", share=share(n, total)))],
            f"{n:,}") for label, n in items[:MOST]
    ]  # fmt: skip
    if items[MOST:]:
        rest = sum(n for _, n in items[MOST:])
        tip = phrase("tip-rows", name=phrase("rest"), rows=f"{rest:,}")
        bars_shown.append(Bar(phrase("more-names", n=len(items) - MOST), [(rest, "neutral", tip)], f"{rest:,}"))
    return bars(drawing, bars_shown)


def mix(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Each source's share of the training rows, repeats counted."""
    names = names_of([line["source"] for line in numbers["mix"]])
    title = findings.mix(numbers, names)
    drawing = Drawing("mix", width, 0, title, phrase("alt-mix"), x_axis=phrase("axis-share-of-rows"))
    rows = []
    for line in numbers["mix"][:MOST]:
        values = {"taken": f"{line['taken']:,}", "available": f"{line['available']:,}", "share": f"{line['share']:.1%}"}
        tip = phrase("tip-mix", times=line["repeat"], **values)
        rows.append(
            Bar(names[line["source"]], [(line["share"], "accent", tip)], f"{line['share']:.1%}", tip=line["source"])
        )
    return bars(drawing, rows)


def groups_of_duplicates(numbers: Mapping[str, Any], width: float) -> Drawing:
    """How many groups there are of each size."""
    title = findings.duplicates(numbers)
    drawing = Drawing("groups", width, 0, title, phrase("alt-groups"), x_axis=phrase("axis-groups"))
    rows = [
        Bar(phrase("size-rows", size=s["size"]),
            [(s["groups"], "accent", phrase("tip-groups", groups=f"{s['groups']:,}", size=s["size"]))],
            f"{s['groups']:,}") for s in numbers["duplicates"]["sizes"]
    ]  # fmt: skip
    return bars(drawing, rows)


def contamination(numbers: Mapping[str, Any], width: float) -> Drawing:
    """Benchmark by source; a cell is tinted where some rows hold one of its questions, dark where most of them do."""
    table = numbers["contamination"]["table"]
    columns = list(dict.fromkeys(source for row in table.values() for source in row))[:8]
    drawing = Drawing("contamination", width, 0, findings.contamination(numbers), phrase("alt-contamination"))
    wide = width > 500
    left, high = (GUTTER, 30) if wide else (112, TOUCH)
    cell = min((width - left) / max(len(columns), 1), 150)
    most = max((n for row in table.values() for n in row.values()), default=0)
    names = names_of(columns)
    for number, source in enumerate(columns):
        x = left + number * cell
        drawing.add(Text(x + cell / 2, 14, fitted(names[source], 12, cell - 8), 12, "soft", "middle", tip=source))
    for number, (benchmark, row) in enumerate(table.items()):
        y = 24 + number * (high + 3)
        drawing.add(Text(0, y + high / 2 + 5, fitted(benchmark, 13, left - 12), 13, tip=benchmark))
        for place, source in enumerate(columns):
            n = int(row.get(source) or 0)
            dark = n > most / 2
            fill = "accent" if dark else "tint" if n else "grid"
            tip = phrase("tip-hits", benchmark=benchmark, source=source, rows=f"{n:,}")
            x, ink = left + place * cell, "paper" if dark else "ink"
            drawing.add(Rect(x, y, cell - 3, high, fill, tip, "hits" if n else ""))
            drawing.add(Text(x + (cell - 3) / 2, y + high / 2 + 5, f"{n:,}", 13, ink, "middle", tip=tip))
    drawing.height = 24 + len(table) * (high + 3) + 16
    drawing.add(Text(left, drawing.height - 2, phrase("axis-rows"), 11.5, "soft"))
    return drawing
