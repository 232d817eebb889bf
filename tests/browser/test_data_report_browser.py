"""The report in a real browser: nothing leaves the machine, no picture is empty, and what can be clicked works."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.browser import browser, open_page, painted
from tests.helpers.report_run import built

pytestmark = pytest.mark.browser

__all__ = ["browser", "built"]  # fixtures: used by name


@pytest.mark.parametrize(("width", "scheme", "drawing"), [(1100, "light", "wide"), (400, "dark", "narrow")])
def test_no_chart_is_empty_in_a_browser(built: Path, browser: Any, width: int, scheme: str, drawing: str) -> None:
    page, wrong = open_page(browser, built / "data_report.html", width, scheme)
    figures = page.query_selector_all("figure.chart")
    assert len(figures) == 14
    screen = np.asarray(Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")).astype(np.int16)
    for figure in figures:
        picture = figure.query_selector(f"svg.{drawing}")
        name = figure.get_attribute("id")
        assert picture.is_visible(), name
        assert len(picture.query_selector_all("rect, path, line")) >= 1, name
        assert painted(screen, picture.bounding_box()) > 0.004, name
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert wrong == []


def test_a_rule_opens_and_pagers_turn_in_a_browser(built: Path, browser: Any) -> None:
    from playwright.sync_api import expect

    page, wrong = open_page(browser, built / "data_report.html")
    rule = page.locator("#rule-control-characters")
    mended = rule.locator("del").first
    assert not mended.is_visible()
    page.locator("#chart-rules svg.wide a[href='#rule-control-characters'] rect").last.click()
    mended.wait_for(state="visible")  # the page opens it when its address has changed, which is after the click

    rows = page.locator("#rows")
    shown, place = rows.locator("article:visible"), rows.locator("output")
    expect(shown).to_have_count(1)
    first = shown.inner_text()
    rows.locator(".next").click()
    expect(shown).not_to_have_text(first, use_inner_text=True)
    page.keyboard.press("ArrowLeft")
    expect(shown).to_have_text(first, use_inner_text=True)
    rows.locator(".back").click()
    count = rows.locator("article").count()
    expect(place).to_have_text(f"{count} of {count}")
    rows.locator("select[name=split]").select_option("val")
    expect(shown).to_have_attribute("data-split", "val")
    rows.locator("select[name=rule]").select_option("output-empty")
    expect(place).to_have_text("none")
    rows.locator("select[name=split]").select_option("")
    expect(place).to_have_text("1 of 5")
    page.locator("#chart-flow svg.wide rect").first.hover()
    page.locator("#tip", has_text="read: 91 rows").wait_for(state="visible")  # browsers tell of moves once a frame
    assert wrong == []
