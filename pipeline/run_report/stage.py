"""The run report: one page of all that a run folder holds. It runs no stage."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config
from pipeline.pages.page import page
from pipeline.run.files import write_text
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.run_report import record, results, sections
from pipeline.run_report.parts import COMMANDS, Parts, read

PAGE = "run_report.html"
PAGE_BEFORE = "report.html"  # its name in earlier versions, which is also what the data report was called
END = ": one file, which needs no network and no other file. Every number is read from the run's folder."


def build(config: Config, run: Run) -> Path:
    """Writes the page, removes that of an earlier version, and prints the path.

    Raises:
        UserError: nothing was made in the run folder yet.
    """
    parts = read(config, run)
    path = run.root / PAGE
    write_text(path, shortener(run.root, config, parts.config)(html(parts)))
    if (run.root / PAGE_BEFORE).is_file():
        (run.root / PAGE_BEFORE).unlink()
        say(f"report: {run.root / PAGE_BEFORE} of an earlier version is removed: the run report is called {PAGE} now")
    gone = [command for folder, command in COMMANDS.items() if not parts.has(folder)]
    more = f" (not in it yet: {', '.join(dict.fromkeys(gone))})" if gone else ""
    say(f"report: {path}{more}")
    return path


def html(parts: Parts) -> str:
    """The page from what was read."""
    made = {
        "Summary": sections.summary(parts, record.warnings(parts)),
        "Results": results.results(parts),
        "Probes": results.probes(parts),
        "Benchmarks": results.benchmarks(parts),
        "Side by side": results.side_by_side(parts),
        "Samples": results.samples(parts),
        "Training": sections.training(parts),
        "Data": sections.data(parts),
        "Plan": sections.planned(parts),
        "Made with": record.made_with(parts),
        "Not done": record.not_done(parts),
    }
    return page(parts.config.name, "Run report", made, END)
