"""The run report: one page of all that a run folder holds. It runs no stage."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config
from pipeline.pages.page import page
from pipeline.run.files import write_text
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command
from pipeline.run.progress import say
from pipeline.run_report import record, results, sections
from pipeline.run_report.contents import COMMANDS, Contents, read

PAGE = "run_report.html"
PAGE_BEFORE = "report.html"  # its name in earlier versions, which is also what the data report was called
END = ": one file, which needs no network and no other file. Every number is read from the run's folder."


def build(config: Config, run: Run) -> Path:
    """Writes the page, removes that of an earlier version, and prints the path.

    Raises:
        UserError: nothing was made in the run folder yet.
    """
    contents = read(config, run)
    path = run.root / PAGE
    write_text(path, shortener(run.root, config, contents.config)(html(contents)))
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
    html_by_title = {
        "Summary": sections.summary(contents, record.warnings(contents)),
        "Results": results.results(contents),
        "Probes": results.probes(contents),
        "Benchmarks": results.benchmarks(contents),
        "Side by side": results.side_by_side(contents),
        "Samples": results.samples(contents),
        "Training": sections.training(contents),
        "Data": sections.data(contents),
        "Plan": sections.planned(contents),
        "Made with": record.made_with(contents),
        "Not done": record.not_done(contents),
    }
    return page(contents.config.name, "Run report", html_by_title, END)
