"""The page of `make ui` with hostile text in questions, answers, names and measurements: it stays text."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.browser import browser
from tests.helpers.ui_page import answered, ask, text_of, ui
from tests.helpers.ui_server import Script

pytestmark = pytest.mark.browser

__all__ = ["browser"]  # a fixture: used by name

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>"
    "![cat](http://example.invalid/cat.png) [link](javascript:alert(3)) "
    "<style>body{display:none}</style><iframe src=http://example.invalid></iframe> </textarea></script><b>bold</b>"
)


def test_scripts_images_and_markdown_stay_text_and_load_nothing(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(answers={"demo": HOSTILE, "base": HOSTILE, "poems": ""}, piece=7)
    with ui(browser, script) as (page, server, wrong):
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        loaded: list[str] = []
        page.on("request", lambda request: loaded.append(request.url.removeprefix(server.address)))
        before = page.evaluate("document.querySelectorAll('img, iframe, script, style').length")
        ask(page, HOSTILE, HOSTILE)
        answered(page)
        assert text_of(page) == HOSTILE
        page.locator("#prompt summary").click()
        page.locator("#code summary").click()
        expect(page.locator("#prompt-text")).to_contain_text("<script>alert(1)</script>")
        page.locator("#tab-tokens").click()
        page.locator("#tab-chat").click()
        page.locator("#chat-message").fill(HOSTILE)
        page.locator("#chat-send").click()
        expect(page.locator("#turns .assistant .t")).to_have_text(HOSTILE)
        page.locator("#tab-history").click()
        expect(page.locator("#history .clip").first).to_have_text(HOSTILE)
        page.reload()
        page.locator("#tab-ask").click()
        expect(page.locator("#side-a .t")).to_have_text(HOSTILE)
        assert page.evaluate("document.querySelectorAll('img, iframe, script, style').length") == before
        assert set(loaded) <= {"", "health", "suri/info", "suri/prompt", "suri/questions", "suri/run",
                               "v1/chat/completions"}  # fmt: skip
        assert wrong == []


def test_invisible_characters_are_written_out_and_copied_as_they_are(browser: Any) -> None:
    from playwright.sync_api import expect

    answer = "a\u202eb\x1b[31mc\u200bd e\u200de"
    with ui(browser, Script(answers={"demo": answer, "base": "x"})) as (page, _, wrong):
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        ask(page, "A question")
        answered(page)
        assert text_of(page) == "a‹U+202E›b‹U+001B›[31mc‹U+200B›d e\u200de"
        page.locator("#side-a").get_by_role("button", name="Copy").click()
        expect(page.locator("#status")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == answer
        assert wrong == []


def test_names_and_measurements_are_text_too(browser: Any) -> None:
    from playwright.sync_api import expect

    name = "<img src=x onerror=alert(4)>"
    script = Script(answers={name: "x", "base": "y"}, models=("base", name), rows=[[HOSTILE] * 3])
    with ui(browser, script) as (page, _, wrong):
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.locator("#loaded summary").click()
        expect(page.locator("#models tbody th").nth(1)).to_have_text(name)
        page.get_by_label("Model of answer A").select_option(name)
        page.locator("#tab-run").click()
        expect(page.locator("#run-table td").first).to_have_text(HOSTILE)
        assert page.locator("img").count() == 0
        assert wrong == []


def test_the_policy_runs_nothing_but_the_page_s_own_script(browser: Any) -> None:
    with ui(browser, Script()) as (page, _, wrong):
        html = "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')"
        refused = page.evaluate(f"(() => {{ try {{ {html}; return '' }} catch (error) {{ return error.name }} }})()")
        assert refused == "TypeError"  # Trusted Types
        add = (
            "document.body.append(Object.assign(document.createElement('img'), {src: 'http://example.invalid/x.png'}))"
        )
        with page.expect_event("requestfailed") as failed:
            page.evaluate(add)
        assert failed.value.failure == "csp"
        assert any("Content Security Policy" in line for line in wrong)
