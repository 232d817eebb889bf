"""Charts of the page, each drawn from report.json for a width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.data_report.verbs import VERBS as COUNTED
from pipeline.pages.charts import Bar, Series, add_lines, bars, thinned
from pipeline.pages.drawing import Drawing
from pipeline.pages.phrases import phrase

VERBS = 15  # that are compared
SMOOTH = 50  # points of the line of similarity
MOST = 25  # rules that have a bar of their own


def kept_and_rejected(report: Mapping[str, Any], width: float) -> Drawing:
    """Drafts that were kept, and those that each rule rejected."""
    total = report["drafts"] or 1
    share = f"{report['rows'] / total:.0%}"
    title = phrase("gen-yield-title", rows=f"{report['rows']:,}", drafts=f"{report['drafts']:,}", share=share)
    drawing = Drawing("yield", width, 0, title, phrase("gen-yield-alt"), x_axis=phrase("gen-axis-drafts"))
    rows = [_bar(phrase("word-kept"), report["rows"], total, "accent", bold=True)]
    rows += [_bar(rule, count, total, "warn") for rule, count in list(report["rejected"].items())[:MOST]]
    return bars(drawing, rows)


def _bar(label: str, count: int, total: int, colour: str, bold: bool = False) -> Bar:
    tip = phrase("gen-tip-drafts", name=label, n=f"{count:,}", share=f"{count / total:.1%}")
    return Bar(label, [(count, colour, tip)], f"{count:,}", bold=bold)


def growth(report: Mapping[str, Any], width: float) -> Drawing:
    """Rows kept over the pieces of work that were done; a line that grows flat gives no new rows any more."""
    points = [(float(x), float(y)) for x, y in report["novelty"]["kept_after"]]
    title = phrase("gen-growth-title", share=f"{late_share(points):.0%}")
    drawing = Drawing("growth", width, 0, title, phrase("gen-growth-alt"), x_axis=phrase("gen-axis-work"))
    drawing.y_axis = phrase("gen-axis-kept")
    return add_lines(drawing, [Series(phrase("word-kept"), points, "accent")], 180, "{:,.0f}")


def late_share(points: list[tuple[float, float]]) -> float:
    """Rows that a piece of work gave in the last quarter, as a share of those that it gave in the first; 1: as many."""
    if len(points) < 8:
        return 1.0
    quarter = len(points) // 4
    first = (points[quarter - 1][1]) / max(points[quarter - 1][0], 1.0)
    rise, run = points[-1][1] - points[-1 - quarter][1], points[-1][0] - points[-1 - quarter][0]
    return rise / max(run, 1.0) / first if first else 1.0


def similarity(report: Mapping[str, Any], width: float) -> Drawing:
    """Highest ROUGE-L of each kept row with an earlier one or a seed, in the order in which rows were kept; means of
    neighbours, since single rows differ much."""
    novelty = report["novelty"]
    points = [(float(x), float(y)) for x, y in novelty["similarity"]]
    values = sorted(y for _, y in points)
    title = phrase("gen-similar-title", median=f"{values[len(values) // 2]:.2f}", highest=f"{values[-1]:.2f}")
    drawing = Drawing("similar", width, 0, title, phrase("gen-similar-alt"), x_axis=phrase("gen-axis-row"))
    drawing.y_axis = phrase("gen-axis-f")
    lines = [Series(phrase("gen-line-similar"), thinned(points, SMOOTH), "accent")]
    if novelty["limit"]:
        ends = [(points[0][0], float(novelty["limit"])), (points[-1][0], float(novelty["limit"]))]
        lines.append(Series(phrase("gen-line-limit"), ends, "warn", 1.5))
    return add_lines(drawing, lines, 180, "{:.2f}")


def verbs(counted: Mapping[str, Any], width: float) -> Drawing:
    """The most common root verbs of the generated rows: their share there, and among the seeds."""
    rows, seeds = counted["rows"], counted.get("seeds") or {}
    of_seeds = {v["verb"]: v["rows"] / max(seeds["with_object"], 1) for v in seeds.get("verbs", ())}
    # Only the most common verbs are counted by name: of another one no more is known than that it is rarer.
    least = min(of_seeds.values()) if len(of_seeds) == COUNTED else 0.0
    total = max(rows["with_object"], 1)
    top = rows["verbs"][0]
    title = phrase("gen-verbs-title", verb=top["verb"], share=f"{top['rows'] / total:.0%}")
    drawing = Drawing("verbs", width, 0, title, phrase("gen-verbs-alt"), x_axis=phrase("gen-axis-share"))
    made, known, drawn = phrase("gen-of-rows"), phrase("gen-of-seeds"), []
    for verb in rows["verbs"][:VERBS]:
        share, before = verb["rows"] / total, of_seeds.get(verb["verb"], 0.0)
        tip = phrase("gen-tip-share", name=verb["verb"], who=made, share=f"{share:.1%}")
        drawn.append(Bar(verb["verb"], [(share, "accent", tip)], f"{share:.1%}", bold=True))
        if seeds:
            value = f"{before:.1%}" if verb["verb"] in of_seeds or not least else f"< {least:.1%}"
            tip = phrase("gen-tip-share", name=verb["verb"], who=known, share=value)
            drawn.append(Bar(known, [(before, "left", tip)], value, inset=14))
    meanings = [("accent", made), ("left", known)] if seeds else []
    return bars(drawing, drawn, meanings)
