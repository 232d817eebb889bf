"""Colours of pages stand out from what is behind them: text by 4.5:1, marks by 3:1 (WCAG 2.2, 1.4.3 and 1.4.11)."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.data_report import sunburst
from pipeline.data_report.sunburst import sunburst as draw
from pipeline.pages.drawing import MARK_ROLES, ROLES, TEXT_ROLES, Text, Wedge

SCHEMES = {"light": 0, "dark": 1}
STYLES = [Path(__file__).parents[2] / "pipeline" / folder / "page.css" for folder in ("pages", "comparison")]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def mixed(colour: str, share: float, other: str) -> str:
    """As color-mix(in srgb, colour share, transparent) on top of `other`."""
    pairs = ((int(colour[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def test_contrast_is_computed_as_wcag_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#c8621b", "#ffffff") == pytest.approx(4.02, abs=0.01), "the orange text of before"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_marks_stand_out(scheme: str) -> None:
    colour = {role: pair[SCHEMES[scheme]] for role, pair in ROLES.items()}
    assert {r: round(contrast(colour[r], colour["paper"]), 2) for r in TEXT_ROLES
            if contrast(colour[r], colour["paper"]) < 4.5} == {}  # fmt: skip
    assert {r: round(contrast(colour[r], colour["paper"]), 2) for r in MARK_ROLES
            if contrast(colour[r], colour["paper"]) < 3} == {}  # fmt: skip
    deleted = mixed(colour["warn"], 0.28, colour["paper"])
    pairs = [("ink", colour["tint"]), ("soft", colour["tint"]), ("paper", colour["accent"]), ("paper", colour["ink"]),
             ("ink", deleted), ("ink", colour["grid"])]  # fmt: skip
    assert [(role, round(contrast(colour[role], behind), 2)) for role, behind in pairs
            if contrast(colour[role], behind) < 4.5] == []  # fmt: skip


def test_the_styles_write_text_in_colours_for_text() -> None:
    used = {role for style in STYLES for role in re.findall(r"(?<![-\w])color: var\(--([\w-]+)\)", style.read_text())}
    assert used <= {*TEXT_ROLES, "paper"}
    assert "color-mix(in srgb, var(--warn) 28%, transparent)" in STYLES[0].read_text(), "as `deleted` above"


def test_slices_stand_out_in_both_schemes_and_their_words_on_them() -> None:
    objects = [{"object": f"o{n}", "rows": 30} for n in range(4)]
    entry = {"verbs": [{"verb": f"v{n}", "rows": 120, "objects": objects} for n in range(20)], "parsed": 2400}
    marks = draw(entry, 880, "s", "t", "n", "en").marks
    slices = [mark for mark in marks if isinstance(mark, Wedge)]
    papers = ROLES["paper"]
    assert len(slices) == 100
    assert min(contrast(mark.fill, paper) for mark in slices for paper in papers) >= 3
    for mark, after in pairwise(marks):
        if isinstance(mark, Wedge) and isinstance(after, Text):
            assert contrast(after.fill, mark.fill) >= 4.5
    assert sunburst.with_luminance("#ffffff", 0.2) == sunburst.with_luminance("#808080", 0.2)
