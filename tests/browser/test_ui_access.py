"""The page of `make ui` by keyboard alone, on every width, in both languages and both schemes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.browser import browser
from tests.helpers.ui_page import DESK, PHONE, TABLET, answered, ask, text_of, ui
from tests.helpers.ui_server import ANSWERS, Script

pytestmark = pytest.mark.browser

__all__ = ["browser"]  # a fixture: used by name

# Texts whose contrast with what is behind them is below WCAG's 4.5:1 (3:1 from 24 pixels on, or 18.66 in bold).
LOW_CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const texts = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!texts && !node.matches("textarea, input, select")) continue;
    if (!node.getClientRects().length || node.closest(".unseen, .skip, option")) continue;
    const style = getComputedStyle(node, node.matches("textarea:placeholder-shown") ? "::placeholder" : null);
    const front = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(channels(front)), light(behind(node))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 600);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < (large ? 3 : 4.5)) low.push([node.outerHTML.slice(0, 60), contrast]);
  }
  return low;
}"""
SMALL_TARGETS = """() => [...document.querySelectorAll(
    "button, select, summary, textarea, input[type=number], input[type=password], label:has(input)")]
  .filter((node) => node.getClientRects().length && !node.closest(".unseen"))
  .map((node) => [node.getBoundingClientRect(), node])
  .filter(([box]) => box.height < 43.9 || box.width < 43.9)
  .map(([, node]) => node.outerHTML.slice(0, 90))"""
SMALL_TEXT = """() => [...document.querySelectorAll(
    "textarea, select, button, input[type=number], .t, p.lead, label, th, td")]
  .filter((node) => node.getClientRects().length && parseFloat(getComputedStyle(node).fontSize) < 16)
  .map((node) => node.outerHTML.slice(0, 90))"""


def open_all(page: Any) -> None:
    for name in ("settings", "prompt", "code"):
        page.locator(f"#{name} summary").click()
    page.locator("#tab-tokens").click()


@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, TABLET, DESK])
def test_everything_can_be_read_and_pressed(browser: Any, width: int, scheme: str, locale: str) -> None:
    script = Script(limit=9)
    with ui(browser, script, width, locale, scheme) as (page, _, wrong):
        views: dict[str, list[Any]] = {}

        def look(name: str) -> None:
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            views[name] = [*page.evaluate(LOW_CONTRAST), *page.evaluate(SMALL_TARGETS), *page.evaluate(SMALL_TEXT)]
            views[name] += [f"{wide} pixels too wide"] if wide > 0 else []

        page.locator(".example").first.wait_for()
        look("empty")
        page.locator(".example").first.click()
        page.locator("#compare").check()
        page.locator("#ask").click()
        answered(page)
        page.locator("[data-vote=tie]").click()
        open_all(page)
        look("answered")
        page.locator("#tab-chat").click()
        page.locator("#chat-message").fill("a question")
        page.locator("#chat-send").click()
        page.locator("#turns .more").wait_for()
        look("chat")
        page.locator("#tab-run").click()
        page.locator("#chart svg").wait_for()
        look("run")
        page.locator("#tab-history").click()
        page.locator("#loaded summary").click()
        look("history")
        assert {name: some for name, some in views.items() if some} == {}
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        assert wrong == []


def test_by_keyboard_alone(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    script.gate.clear()
    with ui(browser, script) as (page, _, wrong):
        keys = page.keyboard
        keys.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        keys.press("Enter")
        expect(page.locator("#instruction")).to_be_focused()
        keys.type("two")
        keys.press("Enter")
        keys.type("lines")
        keys.press("Control+Enter")
        expect(page.locator("#side-a .t")).to_have_text(ANSWERS["demo"][:4])
        keys.press("Escape")
        expect(page.locator("#side-a .facts")).to_contain_text("stopped by you")
        assert script.requests[0]["messages"][0]["content"] == "two\nlines"
        script.gate.set()
        keys.press("Tab")
        keys.type("an input")
        keys.press("Tab")
        expect(page.locator("#ask")).to_be_focused()
        keys.press("Enter")
        answered(page)
        assert text_of(page) == ANSWERS["demo"]
        expect(page.locator("#ask")).to_be_focused()
        seen = set()
        for _ in range(30):
            keys.press("Tab")
            focus = "document.activeElement"
            outline = page.evaluate(f"getComputedStyle({focus}).outlineStyle")
            name = page.evaluate(f"{focus}.id || {focus}.dataset.vote || {focus}.dataset.t || {focus}.localName")
            assert outline != "none" or name == "body", name
            seen.add(name)
            if name == "a":  # the vote
                keys.press("Enter")
            if name == "body":
                break
        assert {"new", "compare", "model-a", "model-b", "copy", "a", "tie", "b", "votes-export"} <= seen
        expect(page.locator("[data-vote=a]")).to_have_attribute("aria-pressed", "true")
        page.locator("#tab-ask").focus()
        keys.press("ArrowRight")
        expect(page.locator("#tab-chat")).to_be_focused()
        expect(page.locator("#view-chat")).to_be_visible()
        keys.press("End")
        expect(page.locator("#view-history")).to_be_visible()
        expect(page.locator("#view-ask")).to_be_hidden()
        assert wrong == []


def test_ask_and_stop_are_in_reach_of_a_thumb(browser: Any) -> None:
    script = Script()
    script.gate.clear()
    with ui(browser, script, PHONE) as (page, _, _):
        lowest = """(id) => {
          const box = document.getElementById(id).getBoundingClientRect();
          return [box.top, box.bottom, innerHeight];
        }"""
        top, bottom, height = page.evaluate(lowest, "ask")
        assert height - 90 < top < bottom <= height
        ask(page, "A question")
        page.locator("#stop").wait_for()
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        top, bottom, height = page.evaluate(lowest, "stop")
        assert height - 90 < top < bottom <= height
        page.locator("#stop").tap()
        answered(page)


def test_language_and_scheme_are_switched_and_remembered(browser: Any) -> None:
    from playwright.sync_api import expect

    with ui(browser, Script(), locale="ko-KR") as (page, _, _):
        assert page.evaluate("document.documentElement.lang") == "ko"
        assert page.evaluate("getComputedStyle(document.querySelector('.lead')).wordBreak") == "keep-all"
        page.locator("#language").click()
        assert page.evaluate("document.documentElement.lang") == "en"
        expect(page.locator("#ask")).to_have_text("Ask")
        expect(page.locator("#instruction")).to_have_attribute("placeholder", "What should the model do?")
        expect(page.get_by_role("button", name="Dark colours")).to_be_visible()
        page.locator("#theme").click()
        expect(page.get_by_role("button", name="Light colours")).to_be_visible()
        page.reload()
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 25, 30)"
        texts = page.evaluate("[...document.querySelectorAll('[data-t]')].map((e) => e.textContent)")
        assert [text for text in texts if any("가" <= letter <= "힣" for letter in text)] == []
