"""The end of every method's second phase: own script, rating, evolution.

    row -> in_own_script -> rated -> evolved (and answered) -> in_own_script -> rated ... -> rows

A method ends its `finish` with

    return (yield from finished(settings, row))

where `row` is a draft with instruction, input and output. Without a judge's bar, evolution and foreign script this asks
nothing and returns [row].
"""

from __future__ import annotations

from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.evolve import evolved
from pipeline.synthesis.rating import rated
from pipeline.synthesis.request import Draft, Step, Work
from pipeline.synthesis.script_check import in_own_script


def finished(settings: Synthesis, row: Draft, evolve: bool = True) -> Work:
    """The row, checked and rated, and behind it the rows that it was evolved into; each good or rejected.

    A rejected row is returned as it is, and is not evolved.

    Args:
        evolve: False for further rows of one instruction, so that an instruction is evolved once.
    """
    row = yield from _checked(settings, row)
    rows = [row]
    if row.rejected or not evolve:
        return rows
    parent = row
    for number in range(settings.evolve.rounds):
        child = yield from evolved(settings, parent, number)
        child = yield from _checked(settings, child)
        rows.append(child)
        parent = parent if child.rejected else child
    return rows


def _checked(settings: Synthesis, row: Draft) -> Step:
    if not row.rejected:
        row = yield from in_own_script(settings, row)
    if not row.rejected:
        row = yield from rated(settings, row)
    return row
