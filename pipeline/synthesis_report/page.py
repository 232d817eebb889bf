"""The page about generated rows, `generated/report.html`, from the other files of that folder alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.pages.page import page
from pipeline.pages.phrases import phrase
from pipeline.run.files import read_json, write_text
from pipeline.synthesis_report.samples import samples
from pipeline.synthesis_report.sections import Sections

PAGE = "report.html"


def write(name: str, folder: Path) -> None:
    """Writes the page. The same files give the same bytes.

    Args:
        name: of the run. folder: holds report.json, rows.jsonl and rejected.jsonl.
    """
    sections = Sections(read_json(folder / "report.json"), samples(folder)).all()
    write_text(folder / PAGE, page(name, phrase("gen-report"), sections, phrase("gen-end")))
