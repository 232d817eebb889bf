"""One page of all that a run folder holds, to be forwarded: `report.html`. It reads, and makes nothing else."""

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

NAME = "report.html"
END = ": one file, which needs no network and no other file. Every number is read from the run's folder."


def build(config: Config, run: Run) -> Path:
    """Writes the page and says where it lies.

    Raises:
        UserError: nothing was made in the run folder yet.
    """
    parts = read(config, run)
    path = run.root / NAME
    write_text(path, shortener(run.root, config, parts.config)(html(parts)))
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
