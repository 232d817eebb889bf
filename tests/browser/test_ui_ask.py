"""The page of `make ui`: a question is asked, streams, is stopped, goes on, and survives what happens to it."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.helpers.browser import browser
from tests.helpers.ui_page import DESK, answered, ask, opened, text_of, ui
from tests.helpers.ui_server import ANSWERS, KOREAN, Script, serving

pytestmark = pytest.mark.browser

__all__ = ["browser"]  # a fixture: used by name


def test_two_answers_stream_side_by_side(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    script.gate.clear()
    with ui(browser, script) as (page, _, wrong):
        expect(page.locator("#empty .lead")).to_have_text("Ask one thing. Each question stands alone.")
        ask(page, "Thank the neighbours", "They water plants")
        expect(page.locator("#side-a .t")).to_have_text(ANSWERS["demo"][:4])
        expect(page.locator("#side-a .t")).to_have_attribute("aria-busy", "true")
        expect(page.locator("#side-b .t")).to_have_text(ANSWERS["base"][:4])
        expect(page.locator("#status")).to_have_text("Answering.")
        expect(page.locator("#stop")).to_be_visible()
        expect(page.locator("#empty")).to_be_hidden()
        script.gate.set()
        answered(page)
        assert (text_of(page), text_of(page, "b")) == (ANSWERS["demo"], ANSWERS["base"])
        facts = page.locator("#side-a .facts")
        tokens = -(-len(ANSWERS["demo"]) // script.piece)
        expect(facts).to_contain_text(f"{tokens} tokens · ")
        expect(facts).to_contain_text("ended by itself")
        expect(page.locator("#status")).to_contain_text("ended by itself")
        expect(page.locator("#stop")).to_be_hidden()
        by_model = {body["model"]: body for body in script.requests}
        assert by_model.keys() == {"demo", "base"}
        assert by_model["demo"]["messages"] == [{"role": "user", "content": "Thank the neighbours"}]
        assert by_model["demo"]["input"] == "They water plants"
        sampling = {name: by_model["demo"][name] for name in ("temperature", "max_tokens", "seed")}
        assert sampling == {"temperature": 0, "max_tokens": 256, "seed": 42}
        assert "top_p" not in by_model["demo"]
        assert wrong == []


def test_stop_keeps_the_text_and_continue_goes_on_behind_it(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(pace=0.02)
    with ui(browser, script) as (page, _, wrong):
        page.locator("#compare").uncheck()
        ask(page, "Thank the neighbours")
        expect(page.locator("#side-a .t")).to_contain_text("Thank you for")
        page.locator("#stop").click()
        answered(page)
        begun = text_of(page)
        assert ANSWERS["demo"].startswith(begun)
        assert len(begun) < len(ANSWERS["demo"])
        assert script.left.wait(5)  # the server is told, so that the slot is free
        expect(page.locator("#side-a .facts")).to_contain_text("stopped by you")
        script.pace = 0
        page.get_by_role("button", name="Continue").click()
        answered(page)
        assert text_of(page) == ANSWERS["demo"]
        assert script.requests[-1]["continue_final_message"] is True
        assert script.requests[-1]["messages"][-1] == {"role": "assistant", "content": begun}
        expect(page.locator("#side-a .facts")).to_contain_text("ended by itself")
        expect(page.get_by_role("button", name="Continue")).to_be_hidden()
        assert wrong == []


def test_an_answer_cut_off_at_the_limit_says_so(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(limit=5)
    with ui(browser, script) as (page, _, _):
        ask(page, "Thank the neighbours")
        answered(page)
        expect(page.locator("#side-b .facts")).to_have_text("5 tokens · 0.0 s · cut off at the limit")
        script.limit = 0
        page.locator("#side-b").get_by_role("button", name="Continue").click()
        answered(page)
        assert text_of(page, "b") == ANSWERS["base"]
        tokens = -(-len(ANSWERS["base"]) // script.piece)
        expect(page.locator("#side-b .facts")).to_contain_text(f"{tokens} tokens")  # of both parts


def test_another_adapter_answers(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    with ui(browser, script) as (page, _, _):
        page.get_by_label("Model of answer A").select_option("poems")
        expect(page.locator("#side-a .badge")).to_have_text("adapter")
        ask(page, "A poem")
        answered(page)
        assert text_of(page) == ANSWERS["poems"]
        assert {body["model"] for body in script.requests} == {"poems", "base"}


def test_settings_are_sent_and_their_ranges_kept(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    with ui(browser, script) as (page, _, _):
        page.locator("#settings summary").click()
        expect(page.locator("#template-lock")).to_contain_text("3f2a9c41d07b")
        page.get_by_label("Creative").check()
        page.locator("#set-top_k").fill("40")
        page.locator("#set-repetition_penalty").fill("1.2")
        page.locator("#set-max_tokens").fill("9000")
        expect(page.locator("#set-max_tokens-wrong")).to_have_text("from 1 to 1,024")
        page.locator("#set-seed").fill("7")
        expect(page.get_by_label("Own values")).to_be_checked()
        ask(page, "A poem")
        answered(page)
        sent = {name: script.requests[0].get(name) for name in
                ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed")}  # fmt: skip
        assert sent == {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.2, "max_tokens": 256,
                        "seed": 7}  # fmt: skip
        page.reload()
        expect(page.locator("#set-top_k")).to_have_value("40")
        page.locator("#settings summary").click()
        page.locator("#reset").click()
        expect(page.get_by_label("Greedy")).to_be_checked()
        expect(page.locator("#set-seed")).to_have_value("42")


def test_korean_through_composition(browser: Any) -> None:
    """Enter while a syllable is composed makes no question; Ctrl+Enter asks with the finished syllable."""
    from playwright.sync_api import expect

    script = Script()
    with ui(browser, script, locale="ko-KR") as (page, _, wrong):
        expect(page.locator("#empty .lead")).to_have_text("한 가지를 물어보세요. 이전 질문은 기억하지 않습니다.")
        page.locator("#instruction").focus()
        keys = page.context.new_cdp_session(page)
        for begun in ("ㅇ", "이", "인"):
            keys.send("Input.imeSetComposition", {"text": begun, "selectionStart": 1, "selectionEnd": 1})
        keys.send("Input.insertText", {"text": "인"})
        keys.send("Input.imeSetComposition", {"text": "사", "selectionStart": 1, "selectionEnd": 1})
        enter = """(ctrlKey) => document.getElementById("instruction").dispatchEvent(new KeyboardEvent("keydown", {
          key: "Process", code: "Enter", keyCode: 229, isComposing: true, ctrlKey, bubbles: true, cancelable: true}))"""
        page.evaluate(enter, False)
        page.evaluate(enter, True)
        assert script.requests == []
        keys.send("Input.insertText", {"text": "사"})
        answered(page)
        expect(page.locator("#side-a .t")).to_have_text(KOREAN)
        assert [body["messages"][0]["content"] for body in script.requests] == ["인사", "인사"]
        assert page.locator("#side-a .t").get_attribute("lang") == "ko"
        assert page.evaluate("getComputedStyle(document.querySelector('#side-a .t')).wordBreak") == "keep-all"
        assert wrong == []


def test_a_letter_in_two_pieces_stays_whole(browser: Any) -> None:
    from playwright.sync_api import expect

    with ui(browser, Script(piece=1)) as (page, _, _):
        ask(page, "인사")
        answered(page)
        expect(page.locator("#side-a .t")).to_have_text(KOREAN)


def test_reload_in_the_middle_loses_nothing(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(pace=0.02)
    with ui(browser, script) as (page, _, wrong):
        page.locator("#compare").uncheck()
        ask(page, "Thank the neighbours", "for the plants")
        expect(page.locator("#side-a .t")).to_contain_text("Thank you")
        page.reload()
        expect(page.locator("#instruction")).to_have_value("Thank the neighbours")
        expect(page.locator("#input")).to_have_value("for the plants")
        expect(page.locator("#side-a .t")).to_contain_text("Thank you")
        expect(page.locator("#side-a .facts")).to_contain_text("interrupted when the page was loaded again")
        script.pace = 0
        page.get_by_role("button", name="Continue").click()
        answered(page)
        assert text_of(page) == ANSWERS["demo"]
        assert wrong == []


def test_the_exact_prompt_with_its_tokens(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    with ui(browser, script) as (page, _, _):
        page.locator("#instruction").fill("two words")
        expected = script.prompt({"messages": [{"content": "two words"}]})
        expect(page.locator("#count")).to_have_text(f"{expected['count']} of 2,048 tokens")
        page.locator("#prompt summary").click()
        expect(page.locator("#prompt-text")).to_have_text(expected["text"])
        page.locator("#tab-tokens").click()
        expect(page.locator(".token small")).to_have_text([str(token["id"]) for token in expected["tokens"]])
        expect(page.locator(".token").nth(1)).to_contain_text("Instruction:⏎two")


def test_the_lines_of_code_work(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    with ui(browser, script) as (page, server, _):
        page.locator("#instruction").fill('It\'s "one" $HOME `thing`\n둘')
        page.locator("#input").fill("b\\c")
        page.locator("#code summary").click()
        expect(page.locator("#code-text")).to_contain_text(server.address)
        lines = page.locator("#code-text").text_content()
        made = subprocess.run(["sh", "-c", f"{lines} -s"], capture_output=True, text=True, timeout=20, check=True)
        assert KOREAN in made.stdout or "\\uc548" in made.stdout
        assert script.requests[-1]["messages"][0]["content"] == 'It\'s "one" $HOME `thing`\n둘'
        assert script.requests[-1]["input"] == "b\\c"
        page.locator("#tab-python").click()
        compile(page.locator("#code-text").text_content(), "page", "exec")
        expect(page.locator("#code-text")).to_contain_text('extra_body={"input":"b\\\\c"}')
        page.locator("#tab-javascript").click()
        expect(page.locator("#code-text")).to_contain_text("await fetch(")


def test_history_is_kept_opened_and_deleted(browser: Any) -> None:
    from playwright.sync_api import expect

    with ui(browser, Script()) as (page, _, wrong):
        for question in ("first question", "second question"):
            ask(page, question)
            answered(page)
        page.locator("#new").click()
        expect(page.locator("#instruction")).to_have_value("")
        expect(page.locator("#empty")).to_be_visible()
        page.reload()
        page.locator("#tab-history").click()
        expect(page.locator("#history li")).to_have_count(2)
        expect(page.locator("#history li").first).to_contain_text("second question")
        page.locator("#history li").last.get_by_text("Open").click()
        expect(page.locator("#instruction")).to_have_value("first question")
        assert text_of(page) == ANSWERS["demo"]
        page.locator("#tab-history").click()
        page.locator("#history li").first.get_by_text("Delete").click()
        expect(page.locator("#history li")).to_have_count(1)
        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("#history-clear").click()
        expect(page.locator("#history li")).to_have_count(0)
        assert page.evaluate("localStorage.getItem('suri-history')") is None
        assert wrong == []


def test_a_new_question_in_the_middle_of_an_answer(browser: Any) -> None:
    """The old answer stops, is in the history, and writes nothing into the new question."""
    from playwright.sync_api import expect

    script = Script()
    script.gate.clear()
    with ui(browser, script) as (page, _, wrong):
        ask(page, "the first")
        expect(page.locator("#side-a .t")).to_have_text(ANSWERS["demo"][:4])
        page.locator("#new").click()
        expect(page.locator("#empty")).to_be_visible()
        script.gate.set()
        ask(page, "the second")
        answered(page)
        assert text_of(page) == ANSWERS["demo"]
        page.locator("#tab-history").click()
        expect(page.locator("#history .clip:not(.soft)")).to_have_text(["the second", "the first"])
        page.locator("#history li").last.get_by_text("Open").click()
        assert text_of(page) == ANSWERS["demo"][:4]
        expect(page.locator("#side-a .facts")).to_contain_text("stopped by you")
        expect(page.locator("#ask")).to_be_enabled()
        assert wrong == []


def test_it_works_without_storage(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script()
    with serving(script) as server:
        page, _ = opened(browser, server.address, DESK)
        page.add_init_script("for (const name of ['localStorage', 'sessionStorage'])"
                             "Object.defineProperty(window, name, {get() { throw new Error('no') }})")  # fmt: skip
        page.reload()
        expect(page.locator("#not-kept")).to_be_visible()
        page.locator("#dot[data-state=ready]").wait_for(state="attached")
        ask(page, "A question")
        answered(page)
        assert text_of(page) == ANSWERS["demo"]
        page.context.close()
