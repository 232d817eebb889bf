"""The data report stage: `dataset/` and `tokens/` in, `report/` out.

data_report.html   the page
report.json        its numbers
*.png              its pictures
"""

from __future__ import annotations

from typing import Any

from pipeline.config.portable_paths import shortened, shortener
from pipeline.config.schema import Config
from pipeline.data_report import verbs
from pipeline.data_report.numbers import gather
from pipeline.data_report.sections import Sections
from pipeline.pages.page import page
from pipeline.pages.phrases import phrase
from pipeline.run.files import write_json, write_text
from pipeline.run.folder import Run
from pipeline.run.progress import bar, say

PAGE = "data_report.html"
PAGE_BEFORE = "report.html"  # its name in earlier versions, which is also what the run report was called


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that the result depends on. A report without verbs becomes stale when a parser is installed."""
    return {
        "version": 3,  # 1: the page was called report.html; 2: in English alone
        "name": config.name,
        "seed": config.data.seed,
        "cutoff": config.prompt.cutoff,
        "dataset": run.content("dataset"),
        "tokens": run.content("tokens"),
        "parsers": verbs.parsers(),
    }


def build(config: Config, run: Run, stage_key: dict[str, Any]) -> None:
    """Counts, parses, draws and writes. The page says what is missing (tokens, benchmarks, parsers)."""
    if (run.folder("report") / PAGE_BEFORE).is_file():
        say(f"report: an earlier version wrote {PAGE_BEFORE}; the data report is now called {PAGE}")
    data = gather(run, config.name, config.data.seed, config.prompt.cutoff)
    short = shortener(run.root, config)
    data.numbers, data.clusters = shortened(data.numbers, short), shortened(data.clusters, short)
    verbs_by_language = verbs.count(data.instructions, data.rows)
    sections = Sections(data, verbs_by_language)
    html = page(config.name, phrase("data-report"), sections.all(), phrase("data-report-end", seed=config.data.seed))
    # A parser that could not be used is left out of the key, so that the next call tries again.
    failed = {language for language, entry in verbs_by_language.items() if entry.get("missing")}
    used = {language: version for language, version in stage_key["parsers"].items() if language not in failed}
    with run.writing("report", {**stage_key, "parsers": used}) as output:
        write_text(output.folder / PAGE, short(html))
        write_json(output.folder / "report.json", {**data.numbers, "verbs": verbs_by_language})
        from pipeline.pages import png  # matplotlib takes a second

        for drawing in bar(sections.drawings, what="report: pictures", unit="picture"):
            png.write(drawing, output.folder / f"{drawing.name}.png")
        output.counts.update(samples=len(data.samples), pictures=len(sections.drawings), bytes=len(html.encode()))
    say(f"report: {run.folder('report') / PAGE}")
