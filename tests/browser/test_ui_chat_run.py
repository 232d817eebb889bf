"""The tabs Chat and Run of the page of `make ui`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.browser import browser
from tests.helpers.ui_page import ui
from tests.helpers.ui_server import ANSWERS, KOREAN, Script, losses

pytestmark = pytest.mark.browser

__all__ = ["browser"]  # a fixture: used by name


def say(page: Any, text: str) -> None:
    page.locator("#chat-message").fill(text)
    page.keyboard.press("Control+Enter")
    page.locator("#chat-send").wait_for()


def test_a_conversation_is_remembered(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(limit=6)
    with ui(browser, script) as (page, _, wrong):
        page.locator("#tab-chat").click()
        page.locator("#chat-system-field summary").click()
        page.get_by_label("System message").fill("Be brief.")
        say(page, "Hello")
        turns = page.locator("#turns li .t")
        expect(turns).to_have_text(["Hello", ANSWERS["demo"][: 6 * 4]])
        script.limit = 0
        page.locator("#turns .more").click()
        expect(turns.last).to_have_text(ANSWERS["demo"])
        assert script.requests[-1]["continue_final_message"] is True
        say(page, "인사해 주세요")
        expect(turns).to_have_text(["Hello", ANSWERS["demo"], "인사해 주세요", KOREAN])
        assert script.requests[-1]["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": ANSWERS["demo"]},
            {"role": "user", "content": "인사해 주세요"},
        ]
        page.locator("#chat-model").select_option("poems")
        page.locator("#turns .again").last.click()
        expect(page.locator("#turns li .who").last).to_have_text("poems")
        assert len(script.requests[-1]["messages"]) == 4
        page.reload()
        expect(turns).to_have_count(4)
        expect(page.locator("#view-chat")).to_be_visible()
        page.locator("#chat-new").click()
        expect(turns).to_have_count(0)
        expect(page.locator("#chat-empty")).to_be_visible()
        assert wrong == []


def test_a_turn_can_be_stopped(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    script.gate.clear()
    with ui(browser, script) as (page, _, _):
        page.locator("#tab-chat").click()
        page.locator("#chat-message").fill("Hello")
        page.locator("#chat-send").click()
        expect(page.locator("#turns .assistant .t")).to_have_text(ANSWERS["demo"][:4])
        page.locator("#chat-stop").click()
        expect(page.locator("#turns .facts")).to_contain_text("stopped by you")
        expect(page.locator("#chat-send")).to_be_visible()


def test_a_turn_that_failed_is_left_out(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(context=12)
    with ui(browser, script) as (page, _, _):
        page.locator("#tab-chat").click()
        say(page, "word " * 20)
        expect(page.locator("#turns .assistant .wrong")).to_contain_text("Too long: the prompt has 23 tokens")
        say(page, "short")
        expect(page.locator("#turns li .t").last).to_have_text(ANSWERS["demo"])
        assert script.requests[-1]["messages"] == [{"role": "user", "content": "short"}]


def test_a_template_without_turns_has_no_chat(browser: Any) -> None:
    from playwright.sync_api import expect

    with ui(browser, Script(turns=False)) as (page, _, _):
        expect(page.locator("#tab-ask")).to_be_visible()
        expect(page.locator("#tab-chat")).to_be_hidden()


def test_losses_are_drawn_and_read_by_keyboard(browser: Any) -> None:
    from playwright.sync_api import expect

    with ui(browser, Script()) as (page, _, wrong):
        page.locator("#tab-run").click()
        curve = page.locator("#chart polyline.train")
        expect(curve).to_have_count(1)
        points = [tuple(map(float, pair.split(","))) for pair in curve.get_attribute("points").split(" ")]
        rows = losses()
        assert len(points) == len(rows)
        assert (points[0][1] < points[-1][1]) == (rows[0]["loss"] > rows[-1]["loss"])  # SVG counts downwards
        expect(page.locator("#chart circle")).to_have_count(4)
        fell = f"from {rows[0]['loss']:.3f} to {rows[-1]['loss']:.3f} in 120 steps."
        expect(page.locator("#chart svg")).to_have_attribute("aria-label", f"Loss by step: training {fell}")
        page.locator("#chart").focus()
        page.keyboard.press("Home")
        first, second = rows[0]["loss"], rows[1]["loss"]
        expect(page.locator("#point")).to_have_text(f"step 1: training {first:.3f} · mean of 10 points {first:.3f}")
        page.keyboard.press("ArrowRight")
        mean = (first + second) / 2
        expect(page.locator("#point")).to_have_text(f"step 2: training {second:.3f} · mean of 10 points {mean:.3f}")
        page.keyboard.press("End")
        mean = sum(row["loss"] for row in rows[-10:]) / 10
        expect(page.locator("#point")).to_contain_text(f"mean of 10 points {mean:.3f} · held-out rows")
        cells = ["base", "tuned", "held-out rows: loss (64 rows)", "2.363"]
        expect(page.locator("#run-table th, #run-table td")).to_contain_text(cells)
        page.locator("#language").click()
        expect(page.locator("#point")).to_contain_text("스텝 120: 학습")
        expect(page.locator("#run-table tbody th").first).to_have_text("검증 데이터: 손실 (64 행)")
        assert wrong == []


def test_a_run_that_is_not_measured_says_so(browser: Any) -> None:
    from playwright.sync_api import expect

    with ui(browser, Script(rows=[])) as (page, _, _):
        page.locator("#tab-run").click()
        expect(page.locator("#run-no-table")).to_be_visible()
        expect(page.locator("#run-table table")).to_have_count(0)
