"""Every page in a real browser: in English or Korean, by keyboard and by touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison.answer_pairs import AnswerPair, ModelAnswer, digest_of
from pipeline.comparison.page import page as drawn
from pipeline.comparison.questions import CompareQuestion
from tests.helpers.browser import browser
from tests.helpers.overview_run import whole
from tests.helpers.report_run import built

pytestmark = pytest.mark.browser

__all__ = ["browser", "built", "whole"]  # fixtures: used by name


@pytest.fixture(scope="module")
def pages(built: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The three kinds of page."""
    question = CompareQuestion("q", "set", "chat", "Ask", "", "", "reference")
    pairs = [AnswerPair(question, ModelAnswer("Yes.\nUser: more", False), ModelAnswer("Yes.", True))]
    compare = tmp_path_factory.mktemp("compare") / "page.html"
    compare.write_text(drawn("demo", "about", pairs, [], digest_of(pairs), 64), encoding="utf-8")
    return [built / "data_report.html", whole, compare]


def opened(browser: Any, path: Path, width: int = 390, locale: str = "en-US", touch: bool = False) -> Any:
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, locale=locale, has_touch=touch, is_mobile=touch)
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    return page


def test_the_browser_s_language_decides_and_the_switch_changes_it(browser: Any, pages: list[Path]) -> None:
    from playwright.sync_api import expect

    for path in pages:
        page = opened(browser, path, locale="ko-KR")
        button = page.locator("#language")
        assert page.evaluate("document.documentElement.lang") == "ko"
        assert (
            page.evaluate("[...document.querySelectorAll('[data-ko]')].filter(e => e.textContent != e.dataset.ko)")
            == []
        )
        assert page.locator(".en:visible").count() == 0
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).wordBreak") == "keep-all"
        expect(button).to_have_text("English")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        button.click()
        assert page.evaluate("document.documentElement.lang") == "en"
        assert (
            page.evaluate("[...document.querySelectorAll('[data-ko]')].filter(e => e.textContent != e.dataset.en)")
            == []
        )
        assert page.locator(".ko:visible").count() == 0
        page.reload()
        expect(button).to_have_text("한국어")  # it was remembered
        page.context.close()


def test_a_tip_and_a_count_speak_korean(browser: Any, built: Path) -> None:
    from playwright.sync_api import expect

    page = opened(browser, built / "data_report.html", 1100, "ko-KR")
    page.locator("#chart-flow svg.wide rect").first.hover()
    expect(page.locator("#tip")).to_have_text("읽음: 91행 (읽은 행의 100.0 %)")
    expect(page.locator("#rows output")).to_contain_text("1번째")
    page.context.close()


@pytest.mark.parametrize("width", [390, 1100])
def test_a_mark_has_one_tab_stop_at_most(browser: Any, built: Path, width: int) -> None:
    page = opened(browser, built / "data_report.html", width)
    stops = page.evaluate(
        """() => [...document.querySelectorAll("figure")].flatMap((figure) => {
          const links = [...figure.querySelectorAll("svg a")].filter((a) => a.tabIndex >= 0);
          const seen = links.filter((a) => a.getClientRects().length);
          const to = seen.map((a) => a.getAttribute("href"));
          return to.length === new Set(to).size ? [] : [figure.id];
        })"""
    )
    assert stops == []
    assert page.locator("#chart-rules svg:visible a:not([tabindex])").count() == 4  # a rule each
    page.context.close()


@pytest.mark.parametrize("width", [390, 768])
def test_what_is_touched_is_44_pixels_high(browser: Any, pages: list[Path], width: int) -> None:
    for path in pages:
        page = opened(browser, path, width, touch=True)
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, select, summary, nav a, svg a:not([tabindex]), .side + a")]
              .filter((e) => e.getClientRects().length && e.getBoundingClientRect().height < 43.9)
              .map((e) => e.outerHTML.slice(0, 80))"""
        )
        assert small == [], path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.context.close()


def test_counts_of_the_list_of_rules_end_at_one_line(browser: Any, built: Path) -> None:
    page = opened(browser, built / "data_report.html", 1100)
    ends = page.evaluate(
        "[...document.querySelectorAll('.rule .did')].map((e) => Math.round(e.getBoundingClientRect().right))"
    )
    assert len(ends) == 5
    assert len(set(ends)) == 1
    page.context.close()
