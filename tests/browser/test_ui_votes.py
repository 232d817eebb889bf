"""The page of `make ui`: A beside B, votes, and their export in the form of `make compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison.answer_pairs import load_pairs
from tests.helpers.browser import browser
from tests.helpers.ui_page import PHONE, answered, ask, exported, text_of, ui
from tests.helpers.ui_server import ANSWERS, Script

pytestmark = pytest.mark.browser

__all__ = ["browser"]  # a fixture: used by name

VOTE = {"vote", "left", "blind"}  # what the page of `make compare` keeps of a vote, beside id, set and category


def test_votes_are_kept_and_exported_in_the_form_of_compare(browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    script = Script(limit=20)
    with ui(browser, script) as (page, _, wrong):
        ask(page, "Thank the neighbours", "for plants")
        answered(page)
        page.get_by_role("button", name="A is better").click()
        expect(page.get_by_role("button", name="A is better")).to_have_attribute("aria-pressed", "true")
        script.limit = 0
        ask(page, "Another one")
        answered(page)
        expect(page.get_by_role("button", name="A is better")).to_have_attribute("aria-pressed", "false")
        page.get_by_role("button", name="B is better").click()
        page.get_by_role("button", name="Tie", exact=True).click()  # a vote may be changed
        expect(page.locator("#votes-count")).to_have_text("Votes: 2, kept in this browser")
        page.reload()
        expect(page.locator("#votes-count")).to_have_text("Votes: 2, kept in this browser")
        expect(page.get_by_role("button", name="Tie", exact=True)).to_have_attribute("aria-pressed", "true")
        lines = exported(page)
        assert [line["vote"] for line in lines] == ["tuned", "tie"]
        first = lines[0]
        assert (first["left"], first["blind"], first["models"]) == ("tuned", False, {"base": "base", "tuned": "demo"})
        assert (first["set"], first["category"], first["input"]) == ("ui", "other", "for plants")
        assert first["tuned"] == {"text": ANSWERS["demo"][: 20 * 4], "stopped": False}
        assert lines[1]["base"] == {"text": ANSWERS["base"], "stopped": True}
        answers = [{name: value for name, value in line.items() if name not in VOTE | {"models"}} for line in lines]
        (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
        pairs = load_pairs(tmp_path)
        assert [pair.question.instruction for pair in pairs] == ["Thank the neighbours", "Another one"]
        assert len({pair.question.id for pair in pairs}) == 2
        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("#votes-forget").click()
        expect(page.locator("#votes")).to_be_hidden()
        assert wrong == []


def test_of_two_adapters_the_second_is_the_one_compared_with(browser: Any) -> None:
    with ui(browser, Script(models=("base", "demo", "poems"))) as (page, _, _):
        page.get_by_label("Model of answer B").select_option("poems")
        ask(page, "A poem")
        answered(page)
        page.get_by_role("button", name="B is better").click()
        (line,) = exported(page)
        assert (line["vote"], line["left"], line["models"]) == ("base", "tuned", {"base": "poems", "tuned": "demo"})


def test_the_base_on_the_left_stays_the_base(browser: Any) -> None:
    with ui(browser, Script()) as (page, _, _):
        page.get_by_label("Model of answer A").select_option("base")
        page.get_by_label("Model of answer B").select_option("demo")
        ask(page, "A poem")
        answered(page)
        page.get_by_role("button", name="A is better").click()
        (line,) = exported(page)
        assert (line["vote"], line["left"], line["models"]) == ("base", "base", {"base": "base", "tuned": "demo"})
        assert line["base"]["text"] == ANSWERS["base"]


def test_one_model_twice_cannot_be_voted_on(browser: Any) -> None:
    from playwright.sync_api import expect

    with ui(browser, Script()) as (page, _, _):
        page.get_by_label("Model of answer B").select_option("demo")
        ask(page, "A poem")
        answered(page)
        expect(page.locator("#vote")).to_have_text("Choose two different models to vote.", use_inner_text=True)


def test_on_a_phone_b_is_off_and_then_a_tab(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    with ui(browser, script, PHONE) as (page, _, wrong):
        expect(page.locator("#compare")).not_to_be_checked()
        ask(page, "A question")
        answered(page)
        assert [body["model"] for body in script.requests] == ["demo"]
        expect(page.locator("#vote")).to_be_hidden()
        page.locator("#compare").check()
        page.locator("#ask").click()
        answered(page)
        expect(page.locator("#side-a")).to_be_visible()
        expect(page.locator("#side-b")).to_be_hidden()
        page.locator("#tab-b").click()
        expect(page.locator("#side-a")).to_be_hidden()
        expect(page.locator("#side-b")).to_be_visible()
        assert text_of(page, "b") == ANSWERS["base"]
        page.get_by_role("button", name="Tie", exact=True).click()
        expect(page.locator("#votes-count")).to_have_text("Votes: 1, kept in this browser")
        assert wrong == []
