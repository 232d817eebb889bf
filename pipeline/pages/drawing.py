"""A drawing as a list of marks, written as SVG for pages and as PNG by `pipeline.pages.png`.

Colours are roles: a page has values for them in its light and its dark scheme, a PNG is always light.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.pages.phrases import Phrase, attribute, data_of
from pipeline.pages.text import escape

# role: (light, dark). On `paper`, text roles have a contrast of 4.5:1 or more and marks of 3:1 (tests/test_pages.py).
# Blue and orange stay apart for every kind of colour blindness. `tint` and `grid` carry no meaning of their own: a
# background below text, and lines that guide the eye.
ROLES = {
    "paper": ("#ffffff", "#15191e"),
    "ink": ("#1d2733", "#e4e8ec"),
    "soft": ("#566270", "#9aa6b2"),
    "grid": ("#e2e6ea", "#2b333c"),
    "tint": ("#d9e7f2", "#233a4d"),
    "accent": ("#23608f", "#6aa3cf"),
    "accent-2": ("#4a90c2", "#4a7fa8"),
    "accent-3": ("#8b79c9", "#a593dd"),
    "left": ("#1d8a78", "#2fae96"),
    "warn": ("#b4530f", "#ef9350"),
    "neutral": ("#84909c", "#76828e"),
}
TEXT_ROLES = ("ink", "soft", "accent", "warn")  # colours of text
MARK_ROLES = ("accent", "accent-2", "accent-3", "left", "warn", "neutral")

WIDE, NARROW = 880, 340  # pixels; each chart is drawn for both


@dataclass(frozen=True)
class Rect:
    """tip: text shown at the pointer. link: an id on the page. fill `transparent`: a place for a tip, not painted."""

    x: float
    y: float
    width: float
    height: float
    fill: str = "accent"
    tip: str = ""
    link: str = ""


@dataclass(frozen=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    stroke: str = "grid"
    width: float = 1
    dashed: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Text:
    """x, y: the base line's start, middle or end. turn: degrees clockwise round that point."""

    x: float
    y: float
    text: str
    size: float = 13
    fill: str = "ink"
    anchor: str = "start"
    bold: bool = False
    turn: float = 0
    tip: str = ""
    link: str = ""


@dataclass(frozen=True)
class Wedge:
    """A piece of a ring, angles in radians, clockwise from the top."""

    x: float
    y: float
    inner: float
    outer: float
    start: float
    end: float
    fill: str
    tip: str = ""


@dataclass(frozen=True)
class Curve:
    """Straight pieces from point to point."""

    points: tuple[tuple[float, float], ...]
    stroke: str = "accent"
    width: float = 2
    tip: str = ""


@dataclass(frozen=True)
class Dot:
    """shape: `circle`, `square` or `diamond`, as high and wide as the circle of this radius."""

    x: float
    y: float
    radius: float
    fill: str = "accent"
    tip: str = ""
    shape: str = "circle"

    def corners(self) -> tuple[tuple[float, float], ...]:
        """Of a square or diamond."""
        r = self.radius
        if self.shape == "square":
            r *= 0.88
            steps = ((-r, -r), (r, -r), (r, r), (-r, r))
        else:
            r *= 1.25
            steps = ((0, -r), (r, 0), (0, r), (-r, 0))
        return tuple((self.x + x, self.y + y) for x, y in steps)


Mark = Rect | Line | Text | Wedge | Curve | Dot


@dataclass
class Drawing:
    """title, note: text above and below the drawing. alt: for screen readers. x_axis, y_axis: what they count, and
    its unit. Texts may be phrases in two languages (`pipeline.pages.phrases`)."""

    name: str
    width: float
    height: float
    title: str
    alt: str
    note: str = ""
    x_axis: str = ""
    y_axis: str = ""
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        self.marks.extend(marks)


def text_width(text: str, size: float) -> float:
    """Approximate width of a text in a sans-serif font; Hangul, Kana and Han are as wide as they are high. Of a phrase
    the wider one of its two texts."""
    if isinstance(text, Phrase):
        return max(text_width(str(text), size), text_width(text.korean, size))
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return size * (0.95 * wide + 0.55 * (len(text) - wide))


def fitted(text: str, size: float, width: float) -> str:
    """The text, or its beginning and end with … between, so that it fits: ends tell paths apart."""
    if text_width(text, size) <= width:
        return text
    for length in range(len(text) - 1, 1, -1):
        head = length // 2
        short = text[: length - head] + "…" + (text[-head:] if head else "")
        if text_width(short, size) <= width:
            return short
    return "…"


def svg(drawing: Drawing, css: str) -> str:
    """The drawing as an <svg> element without a width of its own; `css` is its class."""
    body, linked = [], set()
    for mark in drawing.marks:
        link = getattr(mark, "link", "")
        # One tab stop for all marks of a link: the first.
        name = getattr(mark, "tip", "") or getattr(mark, "text", "")
        body.append(_linked(_element(mark), link, "" if link in linked else name) if link else _element(mark))
        linked.add(link)
    return (
        f'<svg class="{css}" viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}" role="group"'
        f'{attribute("aria-label", drawing.alt)} style="max-width:{_n(drawing.width)}px">{"".join(body)}</svg>'
    )


def _linked(shape: str, link: str, name: str) -> str:
    """The shape as a link. name: of the link, for screen readers; empty where the keyboard passes it by."""
    stop = attribute("aria-label", name) if name else ' tabindex="-1" aria-hidden="true"'
    return f'<a href="#{escape(link)}"{stop}>{shape}</a>'


def _element(mark: Mark) -> str:
    tip = attribute("data-tip", mark.tip) if mark.tip else ""
    if isinstance(mark, Rect):
        return (
            f'<rect x="{_n(mark.x)}" y="{_n(mark.y)}" width="{_n(mark.width)}" height="{_n(mark.height)}"'
            f"{_colour('fill', mark.fill)}{tip}/>"
        )
    if isinstance(mark, Line):
        dash = ' stroke-dasharray="4 3"' if mark.dashed else ""
        return (
            f'<line x1="{_n(mark.x1)}" y1="{_n(mark.y1)}" x2="{_n(mark.x2)}" y2="{_n(mark.y2)}"'
            f'{_colour("stroke", mark.stroke)} stroke-width="{_n(mark.width)}"{dash}{tip}/>'
        )
    if isinstance(mark, Curve):
        return (
            f'<polyline points="{_pairs(mark.points)}" fill="none"{_colour("stroke", mark.stroke)} '
            f'stroke-width="{_n(mark.width)}" stroke-linejoin="round"{tip}/>'
        )
    if isinstance(mark, Dot):
        fill = _colour("fill", mark.fill)
        if mark.shape != "circle":
            return f'<polygon points="{_pairs(mark.corners())}" class="dot"{fill}{tip}/>'
        return f'<circle cx="{_n(mark.x)}" cy="{_n(mark.y)}" r="{_n(mark.radius)}" class="dot"{fill}{tip}/>'
    if isinstance(mark, Wedge):
        return f'<path d="{_ring(mark)}"{_colour("fill", mark.fill)} class="slice"{tip}/>'
    turn = f' transform="rotate({_n(mark.turn)} {_n(mark.x)} {_n(mark.y)})"' if mark.turn else ""
    anchor = f' text-anchor="{mark.anchor}"' if mark.anchor != "start" else ""
    weight = ' font-weight="600"' if mark.bold else ""
    return (
        f'<text x="{_n(mark.x)}" y="{_n(mark.y)}" font-size="{_n(mark.size)}"{anchor}{weight}{turn}'
        f"{_colour('fill', mark.fill)}{tip}{data_of(mark.text)}>{escape(mark.text)}</text>"
    )


def _pairs(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _ring(wedge: Wedge) -> str:
    """Path of a wedge. A whole ring would end where it starts and vanish, so it stops a hair before."""
    end = min(wedge.end, wedge.start + 2 * math.pi - 0.05 / max(wedge.inner, 1))
    far = int(end - wedge.start > math.pi)
    a, b = point(wedge.x, wedge.y, wedge.outer, wedge.start), point(wedge.x, wedge.y, wedge.outer, end)
    c, d = point(wedge.x, wedge.y, wedge.inner, end), point(wedge.x, wedge.y, wedge.inner, wedge.start)
    outer, inner = _n(wedge.outer), _n(wedge.inner)
    return (
        f"M{_n(a[0])} {_n(a[1])}A{outer} {outer} 0 {far} 1 {_n(b[0])} {_n(b[1])}"
        f"L{_n(c[0])} {_n(c[1])}A{inner} {inner} 0 {far} 0 {_n(d[0])} {_n(d[1])}Z"
    )


def point(x: float, y: float, radius: float, angle: float) -> tuple[float, float]:
    """The point of a circle at a clockwise angle from the top."""
    return x + radius * math.sin(angle), y - radius * math.cos(angle)


def _colour(what: str, role: str) -> str:
    return f' style="{what}:var(--{role})"' if role in ROLES else f' {what}="{role}"'


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
