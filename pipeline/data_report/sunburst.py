"""The verb-noun sunburst: inner ring the most common root verbs, outer ring their most common objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.pages.drawing import Drawing, Text, Wedge, point, text_width

# Even steps in lightness from deep blue to pale sand, told apart without seeing red or green.
SCALE = ("#23395d", "#2b5c8a", "#3a7ca5", "#5b9ea6", "#8bb9a0", "#bccf9f", "#e4dfab")
DARK, LIGHT = "#16202b", "#ffffff"
OBJECT = 0.6  # how much paler objects are than their verb
TURN = 2 * math.pi


def sunburst(entry: Mapping[str, Any], width: float, name: str, title: str, note: str) -> Drawing:
    """A square drawing. Arcs are as long as the rows of the verb that have one of the objects shown."""
    verbs = [v for v in entry.get("verbs", ()) if v["objects"]]
    verbs.sort(key=lambda verb: -_shown(verb))
    rows_shown = [_shown(verb) for verb in verbs]
    total = sum(rows_shown) or 1
    size = min(width, 680)
    drawing = Drawing(name, width, size, title, f"{title}. The table below has the numbers.", note)
    x, y = width / 2, size / 2
    rings = 0.16 * size, 0.32 * size, 0.498 * size
    letters = 12.5 if size > 500 else 9.0
    at = 0.0
    for rank, (verb, rows) in enumerate(zip(verbs, rows_shown, strict=True)):
        colour = _between(SCALE, rank / max(len(verbs) - 1, 1))
        end = at + TURN * rows / total
        tip = f"{verb['verb']}: {verb['rows']:,} rows with an object, {rows:,} of them with one shown here"
        _slice(drawing, Wedge(x, y, rings[0], rings[1], at, end, colour, tip), verb["verb"], letters)
        for object in verb["objects"]:
            stop = at + TURN * object["rows"] / total
            pale = _mixed(colour, "#ffffff", OBJECT)
            tip = f"{verb['verb']} {object['object']}: {object['rows']:,} rows"
            _slice(drawing, Wedge(x, y, rings[1], rings[2], at, stop, pale, tip), object["object"], letters)
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
    drawing.add(Text(x, y, text, size, DARK if _luminance(wedge.fill) > 0.3 else LIGHT, "middle", turn=turn))


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
