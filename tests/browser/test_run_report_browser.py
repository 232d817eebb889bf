"""The run's page in a real browser: nothing leaves the machine, no picture is empty, and it fits every screen."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.browser import browser, open_page, painted
from tests.helpers.overview_run import whole

pytestmark = pytest.mark.browser

__all__ = ["browser", "whole"]  # fixtures: used by name


@pytest.mark.parametrize(("width", "scheme", "drawing"), [(1100, "dark", "wide"), (390, "light", "narrow")])
def test_no_picture_is_empty(whole: Path, browser: Any, width: int, scheme: str, drawing: str) -> None:
    page, wrong = open_page(browser, whole, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
    figures = page.query_selector_all("figure.chart")
    names = {figure.get_attribute("id") for figure in figures}
    assert {"chart-loss", "chart-rate", "chart-speed", "chart-tasks-val", "chart-benchmarks", "chart-flow"} <= names
    screen = np.asarray(Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")).astype(np.int16)
    for figure in figures:
        picture = figure.query_selector(f"svg.{drawing}")
        assert picture.is_visible(), figure.get_attribute("id")
        assert painted(screen, picture.bounding_box()) > 0.004, figure.get_attribute("id")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)") == (
        scheme == "dark"
    )
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert wrong == []


def test_answers_are_filtered_and_the_curve_tells_its_numbers(whole: Path, browser: Any) -> None:
    api = pytest.importorskip("playwright.sync_api")
    page, wrong = open_page(browser, whole)
    answers = page.locator("#answers")
    answers.locator("select[name=answer]").select_option("wrong")
    api.expect(answers.locator("output")).to_have_text("1 of 2")
    answers.locator(".next").click()
    api.expect(answers.locator("output")).to_have_text("2 of 2")
    picture = page.locator("#chart-loss svg.wide")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.6)
    api.expect(page.locator("#tip")).to_contain_text("training, running mean")
    assert wrong == []
