"""The page in a browser on the server itself: its endpoints, its token, its Content-Security-Policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.prompt.template import load
from tests.helpers.browser import browser
from tests.helpers.scripted_engine import Served, says, served, wait_for
from tests.helpers.tiny import make_tokenizer
from tests.helpers.tokenizers import encoder_of
from tests.helpers.ui_page import answered, ask, opened, text_of

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.browser, pytest.mark.serving]

__all__ = ["browser"]  # a fixture: used by name

ANSWER = "The <b>sky</b> is 파란색 today."
TOKEN = "secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    encoder = encoder_of(folder, load("alpaca-short"))
    with served(Config(name="tiny"), encoder, says(encoder, ANSWER), token=TOKEN) as running:
        yield running


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    opened_page, wrong = opened(browser, f"{server.url}/#token={TOKEN}")
    opened_page.locator("#dot[data-state=ready]").wait_for(state="attached")
    yield opened_page
    opened_page.context.close()
    # the console, and requests to other machines
    assert [line for line in wrong if not line.startswith(server.url)] == []


def test_a_question_is_answered_by_both_models(page: Any, server: Served) -> None:
    server.engine.requests.clear()
    ask(page, "Name a colour.", "한글")
    answered(page)
    assert (text_of(page), text_of(page, "b")) == (ANSWER, ANSWER)
    assert {request.model for request in server.engine.requests} == {"tiny", "base"}
    expected = server.encoder.prompt("Name a colour.", "한글")
    assert all(list(request.ids) == expected for request in server.engine.requests)


def test_stop_frees_the_slots(page: Any, server: Served) -> None:
    server.engine.gate.clear()
    ask(page, "Name a colour.")
    wait_for(lambda: server.engine.status().running == 2)
    page.locator("#stop").click()
    wait_for(lambda: server.engine.status().running == 0)
    server.engine.gate.set()
    answered(page)
