"""Measures the page of `make ui` in a headless Chromium: `python -m scripts.benchmarks.bench_page ADDRESS [TIMES]`.

ADDRESS is that of a running server, such as http://127.0.0.1:8000. Each time a new browser profile loads the page;
`painted` is its first contentful paint, `ready` when it shows the models that are loaded, both from the start of the
navigation. Needs the extra `browser`.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import urllib.request
from typing import Any

from pipeline.command import guarded
from pipeline.run.errors import UserError

TIMES = 10
READY = """() => new Promise((resolve) => {
  const dot = document.getElementById("dot");
  const look = () => dot.dataset.state === "ready" && resolve(performance.now());
  new MutationObserver(look).observe(dot, { attributes: true });
  look();
})"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"


def measure(browser: Any, address: str) -> tuple[float, float]:
    """Milliseconds until the page is painted, and until it is ready."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address, wait_until="commit")
    page.wait_for_selector("#dot", state="attached")
    ready = page.evaluate(READY)
    painted = page.evaluate(PAINTED)
    context.close()
    return painted, ready


def main() -> None:
    if len(sys.argv) < 2:
        raise UserError("no address", "bench_page", "python -m scripts.benchmarks.bench_page http://127.0.0.1:8000")
    address, times = sys.argv[1].rstrip("/") + "/", int(sys.argv[2]) if len(sys.argv) > 2 else TIMES
    from playwright.sync_api import sync_playwright

    with urllib.request.urlopen(address) as reply:
        print(f"size: {len(reply.read()):,} bytes")
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or "/usr/bin/chromium"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        measure(browser, address)  # the browser's own first start
        rows = [measure(browser, address) for _ in range(times)]
        browser.close()
    for name, values in zip(("painted", "ready"), zip(*rows, strict=True), strict=True):
        print(f"{name}: median {statistics.median(values):.0f} ms, {min(values):.0f} to {max(values):.0f} ms")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
