"""Drawings as PNG files. matplotlib only paints; every mark has its coordinates already."""

from __future__ import annotations

import functools
import math
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.pages.drawing import ROLES, Curve, Dot, Drawing, Line, Mark, Rect, Text, Wedge
from pipeline.pages.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCALE = 2  # pixels of the file per unit of the drawing
MARGIN, ABOVE, BELOW = 24, 52, 26
# Fonts with Hangul that systems come with, best first, by the start of their files' names.
HANGUL = (
    "NotoSansKR", "NotoSansCJKkr", "NotoSansCJK", "Pretendard", "NanumGothic", "NanumBarunGothic", "AppleSDGothic",
    "AppleGothic", "malgun", "NanumSquare", "UnDotum", "baekmuk", "gulim", "batang", "SourceHanSansK",
)  # fmt: skip
NO_HANGUL = "No font with Hangul on this machine: Korean words are left out of this picture (install fonts-nanum)."


def write(drawing: Drawing, path: Path) -> None:
    """Paints a drawing with its title above and its note below; the file is replaced in one step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    note = drawing.note
    if hangul_font() is None and any(_is_hangul(c) for m in drawing.marks if isinstance(m, Text) for c in m.text):
        note = f"{NO_HANGUL} {note}".strip()
    lines = _wrapped(note, (drawing.width + MARGIN) / 6.1)
    width = drawing.width + 2 * MARGIN
    height = drawing.height + ABOVE + BELOW + 16 * len(lines)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100 * SCALE, facecolor=ROLES["paper"][0])
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-MARGIN, drawing.width + MARGIN), ylim=(height - ABOVE, -ABOVE))
    axes.axis("off")
    _paint(axes, Text(0, -20, drawing.title, 17, bold=True))
    for mark in drawing.marks:
        _paint(axes, mark)
    for number, line in enumerate(lines):
        _paint(axes, Text(0, drawing.height + 22 + 16 * number, line, 11.5, "soft"))
    temporary = path.with_name(f".{path.name}.tmp")
    FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
    temporary.replace(path)


def _paint(axes: Axes, mark: Mark) -> None:
    """Paints one mark. All have one z-order, so that later marks cover earlier ones as in SVG."""
    from matplotlib import patches
    from matplotlib.lines import Line2D

    if isinstance(mark, Rect):
        if mark.fill == "transparent":  # holds a tip alone
            return
        box = (mark.x, mark.y), mark.width, mark.height
        axes.add_patch(patches.Rectangle(*box, facecolor=_colour(mark.fill), linewidth=0, zorder=1))
    elif isinstance(mark, Line):
        style: Any = (0, (4, 3)) if mark.dashed else "-"
        ends = (mark.x1, mark.x2), (mark.y1, mark.y2)
        axes.add_line(Line2D(*ends, color=_colour(mark.stroke), linewidth=0.72 * mark.width, linestyle=style, zorder=1))
    elif isinstance(mark, Curve):
        xs, ys = zip(*mark.points, strict=True)
        axes.add_line(Line2D(xs, ys, color=_colour(mark.stroke), linewidth=0.72 * mark.width, zorder=1))
    elif isinstance(mark, Dot) and mark.shape != "circle":
        axes.add_patch(patches.Polygon(mark.corners(), facecolor=_colour(mark.fill), linewidth=0, zorder=1))
    elif isinstance(mark, Dot):
        axes.add_patch(
            patches.Circle((mark.x, mark.y), mark.radius, facecolor=_colour(mark.fill), linewidth=0, zorder=1)
        )
    elif isinstance(mark, Wedge):
        # The y axis points down, which turns matplotlib's counter-clockwise angles into clockwise ones.
        angles = math.degrees(mark.start) - 90, math.degrees(mark.end) - 90
        axes.add_patch(
            patches.Wedge(
                (mark.x, mark.y), mark.outer, *angles, width=mark.outer - mark.inner, facecolor=_colour(mark.fill),
                edgecolor=ROLES["paper"][0], linewidth=0.7, zorder=1,
            )
        )  # fmt: skip
    else:
        # A second family only where it is needed: matplotlib warns of fonts without a bold cut.
        families = _families()[: 1 if mark.text.isascii() else None]
        axes.text(
            mark.x, mark.y, _drawable(mark.text), fontsize=0.72 * mark.size, color=_colour(mark.fill),
            ha={"start": "left", "middle": "center", "end": "right"}[mark.anchor], va="baseline", rotation=-mark.turn,
            rotation_mode="anchor", fontweight="bold" if mark.bold else "normal", fontfamily=families, parse_math=False,
            zorder=1,
        )  # fmt: skip


def _colour(role: str) -> str:
    return ROLES[role][0] if role in ROLES else role


@functools.cache
def hangul_font() -> str | None:
    """Family of a font on this machine that has Hangul, or None."""
    from matplotlib import font_manager, ft2font

    paths = [Path(path) for path in sorted(font_manager.findSystemFonts())]
    for start in HANGUL:
        same = [p for p in paths if p.stem.casefold().startswith(start.casefold())]
        # The plain cut of a family has the shortest name, or says Regular.
        for path in sorted(same, key=lambda p: ("Regular" not in p.stem and p.stem != start, len(p.stem), str(p))):
            try:
                font = ft2font.FT2Font(str(path))
                if font.get_char_index(0xAC00):
                    font_manager.fontManager.addfont(str(path))
                    return str(font.family_name)
            except (OSError, RuntimeError):  # a damaged or foreign file among the system's fonts
                continue
    return None


@functools.cache
def _families() -> list[str]:
    hangul = hangul_font()
    return ["DejaVu Sans", *([hangul] if hangul else [])]


@functools.cache
def _glyphs() -> frozenset[int]:
    """Code points that the fonts in use can draw."""
    from matplotlib import font_manager, ft2font

    found: set[int] = set()
    for family in _families():
        found |= set(ft2font.FT2Font(font_manager.findfont(family)).get_charmap())
    return frozenset(found)


def _drawable(text: str) -> str:
    """The text with a dot for each run of characters that the fonts lack."""
    out: list[str] = []
    for char in unicodedata.normalize("NFC", visible(text)):
        shown = char if ord(char) in _glyphs() else "·"
        if shown != "·" or not out or out[-1] != "·":
            out.append(shown)
    return "".join(out)


def _is_hangul(char: str) -> bool:
    return "\uac00" <= char <= "\ud7a3"


def _wrapped(text: str, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines
