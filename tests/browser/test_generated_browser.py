"""The page about generated rows in a real browser, narrow and wide, light and dark, in both languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.run.folder import Run
from tests.helpers.browser import browser, open_page
from tests.helpers.fake_teacher import generate, put_teacher, write_config

pytestmark = pytest.mark.browser

__all__ = ["browser"]  # a fixture: used by name


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS", str(folder / "runs"))
        put_teacher(patch)
        generate(write_config(folder), Run.of("made"))
    return folder / "runs" / "made" / "generated" / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (768, "light"), (1440, "light")])
def test_the_page_fits_every_screen(page_path: Path, browser: Any, width: int, scheme: str) -> None:
    page, wrong = open_page(browser, page_path, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for figure in page.query_selector_all("figure.chart"):
        drawn = [svg for svg in figure.query_selector_all("svg") if svg.is_visible()]
        assert len(drawn) == 1, figure.get_attribute("id")
    page.click("#language")
    assert "원한 만큼 20행을" in page.inner_text("main")
    assert wrong == []


def test_pagers_turn_and_filter(page_path: Path, browser: Any) -> None:
    page, wrong = open_page(browser, page_path)
    rows = page.locator("#rows")
    first = rows.locator("article:visible").inner_text()
    rows.locator(".next").click()
    assert rows.locator("article:visible").inner_text() != first
    alike = page.locator("#alike")
    assert alike.locator("output").inner_text() == f"1 of {alike.locator('article').count()}"
    assert wrong == []
