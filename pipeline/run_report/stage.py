"""The run report: one page of all that a run folder holds, and the same in short as Markdown. It runs no stage.

run_report.html    the page, in English and Korean
run_report.md      its text in English: verdict, settings, data, training, results, samples, total time
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config
from pipeline.pages.page import page
from pipeline.pages.phrases import phrase
from pipeline.run.files import write_text
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command
from pipeline.run.progress import say
from pipeline.run_report import markdown, record, results, sections
from pipeline.run_report.contents import COMMANDS, Contents, read
from pipeline.run_report.training import training

PAGE = "run_report.html"
PAGE_BEFORE = "report.html"  # its name in earlier versions, which is also what the data report was called
MARKDOWN = "run_report.md"


def build(config: Config, run: Run) -> Path:
    """Writes the page and its Markdown, removes the page of an earlier version, and prints the path.

    Raises:
        UserError: nothing was made in the run folder yet.
    """
    contents = read(config, run)
    path = run.root / PAGE
    short = shortener(run.root, config, contents.config)
    write_text(path, short(html(contents)))
    write_text(run.root / MARKDOWN, short(markdown.text(contents)))
    if (run.root / PAGE_BEFORE).is_file():
        (run.root / PAGE_BEFORE).unlink()
        say(f"report: removed {run.root / PAGE_BEFORE}, the report of an earlier version")
    gone = [command for folder, command in COMMANDS.items() if not contents.has(folder)]
    say(f"report: {path}")
    if gone:
        commands = [next_command(command.removeprefix("make ")) for command in dict.fromkeys(gone)]
        say("\n  ".join(["report: these commands add what is not in it yet:", *commands]))
    return path


def html(contents: Contents) -> str:
    """The page from what was read."""
    html_by_name = {
        "summary": sections.summary(contents, record.warnings(contents)),
        "results": results.results(contents),
        "probes": results.probes(contents),
        "benchmarks": results.benchmarks(contents),
        "side-by-side": results.side_by_side(contents),
        "answers": results.samples(contents),
        "training": training(contents),
        "data": sections.data(contents),
        "plan": sections.planned(contents),
        "made-with": record.made_with(contents),
        "not-done": record.not_done(contents),
    }
    html_by_title: dict[str, str] = {phrase(f"section-{name}"): html for name, html in html_by_name.items()}
    return page(contents.config.name, phrase("run-report"), html_by_title, phrase("run-report-end"))
