"""The verb-noun sunburst: inner ring the most common root verbs, outer ring their most common objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data_report.findings import request
from pipeline.pages.drawing import Drawing, Text, Wedge, point, text_width
from pipeline.pages.phrases import joined, phrase

# From blue over green to ochre. Every slice has one of two luminances, at which it stands out from white and from the
# dark scheme's paper by 3:1, and letters of LIGHT on verbs and of DARK on nouns by 4.5:1.
SCALE = ("#2f5f9e", "#2f7fb0", "#35899a", "#4b8a63", "#7a8443", "#9a7430", "#a9622f")
VERB, NOUN = 0.165, 0.285
DARK, LIGHT = "#0d141b", "#ffffff"
TURN = 2 * math.pi


def sunburst(entry: Mapping[str, Any], width: float, name: str, title: str, note: str, language: str) -> Drawing:
    """A square drawing. Arcs are as long as the rows of the verb that have one of the nouns shown.

    Args:
        entry: of `verbs.count`. language: of the words.
    """
    verbs = [v for v in entry.get("verbs", ()) if v["objects"]]
    verbs.sort(key=lambda verb: -_shown(verb))
    rows_shown = [_shown(verb) for verb in verbs]
    total = sum(rows_shown) or 1
    size = min(width, 680)
    drawing = Drawing(name, width, size, title, joined([title, phrase("table-below")], ". "), note)
    x, y = width / 2, size / 2
    rings = 0.16 * size, 0.32 * size, 0.498 * size
    letters = 12.5 if size > 500 else 9.0
    at = 0.0
    for rank, (verb, rows) in enumerate(zip(verbs, rows_shown, strict=True)):
        colour = _between(SCALE, rank / max(len(verbs) - 1, 1))
        inner, outer = with_luminance(colour, VERB), with_luminance(colour, NOUN)
        end = at + TURN * rows / total
        tip = phrase("tip-verb", verb=verb["verb"], rows=f"{verb['rows']:,}", shown=f"{rows:,}")
        _slice(drawing, Wedge(x, y, rings[0], rings[1], at, end, inner, tip), verb["verb"], letters)
        for object in verb["objects"]:
            stop = at + TURN * object["rows"] / total
            pair = request(verb["verb"], object["object"], language)
            tip = phrase("tip-rows", name=pair, rows=f"{object['rows']:,}")
            _slice(drawing, Wedge(x, y, rings[1], rings[2], at, stop, outer, tip), object["object"], letters)
            at = stop
        at = end
    return drawing


def _shown(verb: Mapping[str, Any]) -> int:
    return sum(int(object["rows"]) for object in verb["objects"])


def _slice(drawing: Drawing, wedge: Wedge, text: str, size: float) -> None:
    """A wedge with its word along the radius, readable from outside, where the arc is wide enough for a line of it."""
    drawing.add(wedge)
    room = wedge.outer - wedge.inner - 8
    size = min(size, size * room / max(text_width(text, size), 1))
    middle = (wedge.inner + wedge.outer) / 2
    if (wedge.end - wedge.start) * middle < 1.12 * size or size < 7:
        return
    angle = (wedge.start + wedge.end) / 2
    left = math.pi < angle < TURN
    # The base line lies a third of the letters' height beside the radius, so that they sit in its middle.
    lean = angle + (-1 if left else 1) * 0.35 * size / middle
    x, y = point(wedge.x, wedge.y, middle, lean)
    turn = math.degrees(angle) - 90 + (180 if left else 0)
    drawing.add(Text(x, y, text, size, DARK if _luminance(wedge.fill) > 0.2 else LIGHT, "middle", turn=turn))


def with_luminance(colour: str, luminance: float) -> str:
    """The colour mixed with black or white until it has this luminance."""
    other = "#ffffff" if _luminance(colour) < luminance else "#000000"
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        is_short = _luminance(_mixed(colour, other, middle)) < luminance
        low, high = (middle, high) if is_short == (other == "#ffffff") else (low, middle)
    return _mixed(colour, other, high)


def _between(scale: Sequence[str], share: float) -> str:
    at = share * (len(scale) - 1)
    low = min(int(at), len(scale) - 2)
    return _mixed(scale[low], scale[low + 1], at - low)


def _mixed(one: str, other: str, share: float) -> str:
    pairs = zip(_rgb(one), _rgb(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    """Relative luminance, 0 to 1 (WCAG)."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in _rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
