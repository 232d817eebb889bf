"""The page of `make compare` in a real browser: votes are counted, kept and downloaded; nothing leaves the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison.answer_pairs import AnswerPair, ModelAnswer, digest_of
from pipeline.comparison.page import page as drawn
from pipeline.comparison.page import swapped
from pipeline.comparison.questions import CompareQuestion
from pipeline.comparison.winrate import wilson
from tests.helpers.browser import browser, open_page
from tests.helpers.report_run import NASTY

pytestmark = pytest.mark.browser

__all__ = ["browser"]  # a fixture: used by name


def pair(n: int, category: str, text: str = "질문") -> AnswerPair:
    question = CompareQuestion(f"q{n}", "set", category, f"{text} {n}", "", "", "")
    return AnswerPair(question, ModelAnswer(f"base says {n}", True), ModelAnswer(f"tuned says {n} {text}", n != 2))


PAIRS = [pair(1, "maths"), pair(2, "chat"), pair(3, "maths"), pair(4, "chat", NASTY)]
DIGEST = digest_of(PAIRS)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(drawn("demo", "about it", PAIRS, [], DIGEST, 64), encoding="utf-8")
    return path


def left_is_tuned(n: int) -> bool:
    return swapped(DIGEST, f"q{n}")


def visible(page: Any) -> Any:
    return page.locator("article:visible")


def reload(page: Any, progress: str) -> None:
    """Loads the page again until it says so: Chromium hands what a page has stored to its browser a moment later, and
    on a busy machine a reload right after a vote can come before it."""
    from playwright.sync_api import expect

    for _ in range(4):
        page.reload()
        try:
            expect(page.locator("#progress")).to_have_text(progress, timeout=1500)
            return
        except AssertionError:
            continue
    expect(page.locator("#progress")).to_have_text(progress)


def test_votes_are_counted_kept_and_downloaded(browser: Any, made: Path) -> None:
    from playwright.sync_api import expect

    page, wrong = open_page(browser, made)
    expect(visible(page)).to_have_count(1)
    expect(page.locator("#at")).to_have_text("1 of 4")
    expect(visible(page).locator(".who")).to_have_count(2)
    expect(visible(page).locator(".who:visible")).to_have_count(0)  # blind
    expect(visible(page).locator(".side").first).to_contain_text("tuned says" if left_is_tuned(1) else "base says")
    visible(page).get_by_text("is better").first.click()  # the left one of q1
    expect(page.locator("#at")).to_have_text("2 of 4")
    expect(page.locator("#progress")).to_have_text("1 of 4 voted")
    expect(visible(page).locator(".cut")).to_have_count(1)
    expect(visible(page).locator(".cut:visible, .rest:visible")).to_have_count(0)  # it would tell the model
    page.keyboard.press("t")  # q2
    expect(page.locator("#at")).to_have_text("3 of 4")
    page.keyboard.press("ArrowLeft")
    expect(visible(page).locator(".cut:visible")).to_have_text("did not stop: cut off after 64 tokens")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#at")).to_have_text("3 of 4")
    page.keyboard.press("r")
    expect(visible(page).locator(".who:visible")).to_have_text(
        ["tuned", "base"] if left_is_tuned(3) else ["base", "tuned"]
    )
    page.keyboard.press("3")  # the right one of q3, not blind any more
    expect(page.locator("#at")).to_have_text("4 of 4")
    reload(page, "3 of 4 voted")
    expect(page.locator("#at")).to_have_text("4 of 4")  # goes on where votes end

    tuned = int(left_is_tuned(1)) + int(not left_is_tuned(3))
    share = (tuned + 0.5) / 3
    page.locator("#tally summary").click()
    low, high = wilson(share, 3)
    expected = ["all", "3", str(tuned), "1", str(2 - tuned), f"{share:.1%}".replace("%", " %"),
                f"{low:.1%} to {high:.1%}".replace("%", " %")]  # fmt: skip
    expect(page.locator("#tally tbody tr").first.locator("th, td")).to_have_text(expected)
    with page.expect_download() as download:
        page.locator("#export").click()
    found = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert download.value.suggested_filename == "votes-demo.json"
    assert (found["run"], found["hash"]) == ("demo", DIGEST)
    assert found["votes"][0] == {
        "id": "q1", "set": "set", "category": "maths", "vote": "tuned" if left_is_tuned(1) else "base",
        "left": "tuned" if left_is_tuned(1) else "base", "blind": True,
    }  # fmt: skip
    assert [vote["vote"] for vote in found["votes"]][1] == "tie"
    assert [vote["blind"] for vote in found["votes"]] == [True, True, False]
    assert found["tally"]["interval"] == pytest.approx([low, high])
    assert wrong == []


def test_filters_and_other_answers(browser: Any, made: Path) -> None:
    from playwright.sync_api import expect

    page, wrong = open_page(browser, made)
    page.keyboard.press("2")
    expect(page.locator("#at")).to_have_text("2 of 4")
    page.locator("#open-only").check()
    expect(page.locator("#at")).to_have_text("1 of 3")
    page.locator("select[name=category]").select_option("maths")
    expect(page.locator("#at")).to_have_text("1 of 1")
    expect(visible(page).locator(".question")).to_contain_text("질문 3")
    page.locator("h1").click()
    page.keyboard.press("a")
    expect(page.locator("#none")).to_be_visible()
    page.locator("#open-only").uncheck()
    expect(page.locator("#at")).to_have_text("1 of 2")
    page.locator("select[name=category]").select_option("chat")
    page.locator(".next").click()
    expect(page.locator("#at")).to_have_text("2 of 2")
    expect(visible(page).locator(".question")).to_contain_text("<script>alert(1)</script>")
    page.locator(".next").click()
    expect(page.locator("#at")).to_have_text("1 of 2")
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#clear").click()
    expect(page.locator("#progress")).to_have_text("0 of 4 voted")
    assert wrong == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_it_fits_and_survives_without_storage(browser: Any, made: Path, width: int, scheme: str) -> None:
    from playwright.sync_api import expect

    page, wrong = open_page(browser, made, width, scheme)
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }})")
    page.reload()
    expect(page.locator("#where")).to_contain_text("download the votes before you leave")
    page.keyboard.press("b")
    expect(page.locator("#progress")).to_have_text("1 of 4 voted")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    left, right = (side.bounding_box() for side in visible(page).locator(".side").all())
    assert (left["y"] == right["y"]) == (width > 700)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert wrong == []
