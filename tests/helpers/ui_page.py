"""The page of `make ui` in a browser, over the scripted server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.ui_server import Script, UiServer, serving

PHONE, TABLET, DESK = 390, 768, 1440


@contextmanager
def ui(
    browser: Any, script: Script, width: int = DESK, locale: str = "en-US", scheme: str = "light"
) -> Iterator[tuple[Any, UiServer, list[str]]]:
    """The page when it is ready, its server, and what went wrong: errors, console, and requests to other machines."""
    with serving(script) as server:
        page, wrong = opened(browser, server.address, width, locale, scheme)
        page.locator("#dot[data-state=ready]").wait_for(state="attached")
        try:
            yield page, server, wrong
        finally:
            page.context.close()


def opened(
    browser: Any, address: str, width: int = DESK, locale: str = "en-US", scheme: str = "light"
) -> tuple[Any, list[str]]:
    """The page at an address, ready or not."""
    touch = width == PHONE
    size = {"width": width, "height": 844 if touch else 900}
    context = browser.new_context(
        viewport=size, locale=locale, color_scheme=scheme, has_touch=touch, is_mobile=touch, accept_downloads=True
    )
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "status of" not in message.text else None)
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(address) else None)
    page.goto(address)
    return page, wrong


def ask(page: Any, instruction: str, input: str = "") -> None:
    """Writes a question and asks it; does not wait for the answer."""
    page.locator("#instruction").fill(instruction)
    page.locator("#input").fill(input)
    page.locator("#ask").click()


def answered(page: Any) -> None:
    """Waits until no answer is being written, and the last one is painted."""
    _painted(page)  # a click before this has had its effect
    page.locator("#ask:not([disabled])").wait_for()
    _painted(page)


def _painted(page: Any) -> None:
    """Waits for two frames."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def text_of(page: Any, side: str = "a") -> str:
    return str(page.locator(f"#side-{side} .t").text_content())


def exported(page: Any) -> list[dict[str, Any]]:
    """The lines of the exported votes."""
    with page.expect_download() as download:
        page.locator("#votes-export").click()
    return [json.loads(line) for line in Path(download.value.path()).read_text(encoding="utf-8").splitlines()]
