"""From the config to the method that makes rows, and to what answers its requests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.generation import MISSING, Method
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.questions import Questions
from pipeline.synthesis.readiness import places_of
from pipeline.synthesis.seeds import read_seeds
from pipeline.synthesis.self_instruct import SelfInstruct, first_items, series
from pipeline.synthesis.spend import Budget
from pipeline.synthesis.teachers import teachers_of
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


@contextlib.asynccontextmanager
async def open_asker(settings: Synthesis, journal: Journal) -> AsyncIterator[Asker]:
    """What answers requests: the journal, and but for a replay the teachers of the config. Closes both at the end.

    Raises:
        UserError: a key is missing.
    """
    budget = Budget(settings, journal)
    teachers = {} if settings.replay else teachers_of(settings, budget)
    if teachers:
        note(settings, journal)
    try:
        yield Asker(journal, budget, teachers, places_of(settings))
    finally:
        for teacher in set(teachers.values()):
            await teacher.close()
        journal.close()


def note(settings: Synthesis, journal: Journal) -> None:
    """Notes in the journal what requests depend on besides the config; before the first request is sent."""
    if settings.method != "self-instruct":
        return
    items = first_items(settings, read_seeds(settings), journal, MISSING)
    if journal.notes.get(series(settings)) != items:
        journal.note(series(settings), items)
