"""The sentence on top of the page: how many rows there are, why not more, and whether much was thrown away.

good      as many rows as were wanted, and at least `FEW` of the drafts were kept
bad       no row, or fewer than `FEW` of the drafts were kept
unknown   fewer rows than were wanted
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.pages.phrases import Phrase, joined, phrase

FEW = 0.3  # share of the drafts below which most of what is paid for is thrown away
ENDED = ("budget", "journal", "items", "yield")


def verdict(report: Mapping[str, Any]) -> tuple[str, Phrase]:
    """State and sentence."""
    rows, wanted, share = report["rows"], report["wanted"], report["yield"] or 0.0
    if not rows:
        return "bad", phrase("gen-none", drafts=f"{report['drafts']:,}")
    values = {"rows": f"{rows:,}", "wanted": f"{wanted:,}"}
    enough = rows >= wanted
    ended = report["ended"] if report["ended"] in ENDED else "items"
    parts = [phrase("gen-enough", **values) if enough else phrase(f"gen-short-{ended}", **values)]
    if share < FEW:
        rule = next(iter(report["rejected"]), "")
        parts.append(phrase("gen-few", share=f"{share:.0%}", rule=rule))
        return "bad", joined(parts)
    parts.append(phrase("gen-share", share=f"{share:.0%}"))
    return ("good" if enough else "unknown"), joined(parts)
