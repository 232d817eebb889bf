"""The page of `make ui` when not all is well: loading, busy, too long, no export, no token, no server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.browser import browser
from tests.helpers.ui_page import answered, ask, opened, text_of, ui
from tests.helpers.ui_server import ANSWERS, Script, serving

pytestmark = pytest.mark.browser

__all__ = ["browser"]  # a fixture: used by name


def test_the_page_waits_for_the_model(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(loading=True)
    with serving(script) as server:
        page, _ = opened(browser, server.address)
        expect(page.locator("#state")).to_have_text("The model is loading …")
        expect(page.locator("#loading")).to_be_visible()
        page.locator("#instruction").fill("early")
        page.locator("#ask").click()
        assert script.requests == []
        script.loading = False
        expect(page.locator("#state")).to_have_text("Ready")
        expect(page.locator("#loading")).to_be_hidden()
        expect(page.locator("#instruction")).to_have_value("early")
        page.locator("#loaded summary").click()
        expect(page.locator("#models tbody tr")).to_have_count(3)
        expect(page.locator("#models tbody tr").nth(1)).to_have_text("demotunedalpaca2,048 tokensready")
        page.context.close()


def test_a_busy_server_is_asked_again(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(busy=1)
    with ui(browser, script) as (page, _, _):
        page.locator("#compare").uncheck()
        ask(page, "A question")
        expect(page.locator("#side-a .waiting")).to_have_text("The server is busy. Next try in 1 s …")
        answered(page)
        assert text_of(page) == ANSWERS["demo"]
        script.busy = 99
        page.locator("#ask").click()
        expect(page.locator("#side-a .waiting")).to_contain_text("busy")
        page.keyboard.press("Escape")
        expect(page.locator("#side-a .facts")).to_contain_text("stopped by you")


def test_too_long_says_both_numbers_and_is_not_sent(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(context=20)
    with ui(browser, script) as (page, _, _):
        page.locator("#instruction").fill("word " * 40)
        expect(page.locator("#count")).to_have_text(
            "Too long: the prompt has 43 tokens and the model takes 20. Shorten it by at least 24."
        )
        expect(page.locator("#instruction")).to_have_attribute("aria-invalid", "true")
        page.locator("#ask").click()
        expect(page.locator("#status")).to_contain_text("the prompt has 43 tokens and the model takes 20")
        assert script.requests == []
        page.locator("#instruction").fill("short")
        page.locator("#ask").click()  # the number of the old text does not count
        answered(page)
        assert text_of(page) == ANSWERS["demo"]


def test_the_server_s_word_on_length_is_shown_with_both_numbers(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(context=20)
    with ui(browser, script) as (page, _, _):
        ask(page, "word " * 40)  # before the page has counted
        answered(page)
        expect(page.locator("#side-a .wrong")).to_contain_text("the prompt has 43 tokens and the model takes 20")


def test_a_run_without_export_names_the_command(browser: Any) -> None:
    from playwright.sync_api import expect

    with ui(browser, Script(models=("base",))) as (page, _, _):
        expect(page.locator("#export-command")).to_have_text("make export CONFIG=configs/demo.yaml")
        expect(page.locator("#compare-field")).to_be_hidden()
        ask(page, "A question")
        answered(page)
        assert text_of(page) == ANSWERS["base"]


def test_a_server_that_goes_leaves_the_text_and_may_come_back(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(breaks_after=3)
    with ui(browser, script) as (page, server, _):
        port = server.server_address[1]
        page.locator("#compare").uncheck()
        ask(page, "A question")
        answered(page)
        expect(page.locator("#side-a .facts")).to_contain_text("broken off: the server is gone")
        assert text_of(page) == ANSWERS["demo"][:12]
        server.shutdown()
        server.server_close()
        page.locator("#ask").click()
        expect(page.locator("#gone")).to_contain_text("Your text is kept here")
        expect(page.locator("#state")).to_have_text("Server gone")
        expect(page.locator("#instruction")).to_have_value("A question")
        script.breaks_after = 0
        with serving(script, port):
            expect(page.locator("#state")).to_have_text("Ready", timeout=15000)
            expect(page.locator("#gone")).to_be_hidden()
            page.locator("#ask").click()
            answered(page)
            assert text_of(page) == ANSWERS["demo"]


def test_a_token_is_asked_for_and_kept_in_this_tab(browser: Any) -> None:
    from playwright.sync_api import expect

    with serving(Script(token="secret")) as server:
        page, _ = opened(browser, server.address)
        dialog = page.locator("#token-dialog")
        expect(dialog).to_be_visible()
        page.locator("#token-cancel").click()
        expect(page.locator("#state")).to_have_text("Needs a token")
        page.locator("#instruction").fill("A question")
        page.locator("#ask").click()
        page.locator("#token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#token-wrong")).to_be_visible()
        page.locator("#token").fill("secret")
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("Ready")
        expect(dialog).to_be_hidden()
        page.locator("#ask").click()
        answered(page)
        assert text_of(page) == ANSWERS["demo"]
        page.locator("#code summary").click()
        expect(page.locator("#code-text")).to_contain_text("Bearer $SURI_TOKEN")
        assert "secret" not in page.locator("body").inner_text()
        assert page.evaluate("sessionStorage.getItem('suri-token')") == '"secret"'
        assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
        page.reload()
        expect(page.locator("#state")).to_have_text("Ready")
        page.context.close()


def test_a_token_in_the_address_is_taken_out_of_it(browser: Any) -> None:
    from playwright.sync_api import expect

    with serving(Script(token="secret")) as server:
        page, _ = opened(browser, server.address + "#token=secret")
        expect(page.locator("#state")).to_have_text("Ready")
        assert page.url == server.address
        assert page.evaluate("history.length") <= 2
        page.context.close()
