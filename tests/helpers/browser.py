"""A real browser for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, headless."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
    if not Path(CHROMIUM).is_file():
        pytest.skip("needs chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def open_page(browser: Any, path: Path, width: int = 1100, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page in a window, and what went wrong or left the machine."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.resolve().as_uri())
    return page, wrong


def painted(picture: Any, box: dict[str, float]) -> float:
    """Share of the pixels in a box of the screenshot that differ from its upper right corner."""
    x, y, width, height = (round(box[name]) for name in ("x", "y", "width", "height"))
    pixels = picture[y : y + height, x : x + width]
    return float((abs(pixels - pixels[0, -1]).max(axis=2) > 24).mean())
