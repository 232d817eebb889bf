"""From the config to the method that makes rows."""

from __future__ import annotations

from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.generation import MISSING, Method
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.questions import Questions
from pipeline.synthesis.seeds import read_seeds
from pipeline.synthesis.self_instruct import SelfInstruct, first_items, series
from pipeline.synthesis.translate import Translate


def method(settings: Synthesis, journal: Journal) -> Method:
    """The method that the config names.

    Args:
        journal: of earlier commands, with what a method noted in it.
    """
    if settings.method == "translate":
        return Translate(settings)
    if settings.method == "questions":
        return Questions(settings)
    seeds = read_seeds(settings)
    return SelfInstruct(settings, seeds, first_items(settings, seeds, journal, MISSING))


def note(settings: Synthesis, journal: Journal) -> None:
    """Notes in the journal what requests depend on besides the config; before the first request is sent."""
    if settings.method != "self-instruct":
        return
    items = first_items(settings, read_seeds(settings), journal, MISSING)
    if journal.notes.get(series(settings)) != items:
        journal.note(series(settings), items)
