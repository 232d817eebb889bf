"""Which of the whole rows go on, and where to: contamination, duplicates, limits, split, mixture, in this order.

Contaminated rows go first, so that no row is lost for being like one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.config.schema import Data
from pipeline.dataset.engine import Engine
from pipeline.dataset.ledger import Fate, Ledger
from pipeline.dataset.read.benchmark import BenchmarkQuestion
from pipeline.dataset.select.duplicates import near, repeated
from pipeline.dataset.select.mix import Candidate, limited, mix
from pipeline.dataset.select.novelty import Novelty
from pipeline.dataset.select.rouge_tokens import tokens
from pipeline.dataset.select.split import Member, held_out_tasks, split

EXACT, NEAR, NOVELTY = "duplicate", "near-duplicate", "not-novel"
KINDS = {EXACT: "exact", NEAR: "near", NOVELTY: "novelty"}
LEFT_OUT = ("limit", "task-limit", "weight", "rehearsal")  # rules that find no fault with a row


def decide(
    ledger: Ledger, data: Data, questions: Sequence[BenchmarkQuestion], engine: Engine
) -> tuple[dict[int, str], list[dict[str, float | int | str]]]:
    """Fills `ledger.fates`; returns the part of every other row, and each source's share of the training rows.

    Raises:
        UserError: the split or the mixture cannot be made as the config says.
    """
    _contaminated(ledger, questions)
    _duplicates(ledger, data)
    if data.duplicates.novelty:
        _novelty(ledger, data, engine)
    _left_out(ledger, limited(_candidates(ledger, ledger_rows(ledger)), data.sources, data.seed))
    rows = ledger_rows(ledger)
    f = ledger.features
    members = [Member(int(f.ids[i]), f.tasks[i], bool(f.exact[i]), int(f.threads[i])) for i in rows]
    parts = dict(zip(rows, split(members, data, _unseen(ledger, data)), strict=True))
    found = mix(_candidates(ledger, [i for i in rows if parts[i] == "train"]), data)
    _left_out(ledger, found.left_out)
    return {i: part for i, part in parts.items() if i not in ledger.fates}, found.shares


def _unseen(ledger: Ledger, data: Data) -> set[int]:
    """Ids of rows that stay for a dropped one like them that belongs to a held-out task.

    Raises:
        UserError: no row that was read has a task that `data.holdout` names.
    """
    f = ledger.features
    tasks = held_out_tasks({task for task in f.tasks if task}, data)
    alike = [ledger.kept_like(i) for i, fate in ledger.fates.items() if fate.like >= 0 and f.tasks[i] in tasks]
    return {int(f.ids[i]) for i in alike}


def ledger_rows(ledger: Ledger) -> list[int]:
    """Rows that have met no fate so far."""
    return [int(i) for i in np.flatnonzero(ledger.alive)]


def _candidates(ledger: Ledger, rows: Sequence[int]) -> list[Candidate]:
    f = ledger.features
    return [Candidate(i, int(f.ids[i]), ledger.source_of(i), f.tasks[i]) for i in rows]


def _left_out(ledger: Ledger, found: dict[int, tuple[str, str]]) -> None:
    ledger.fates |= {i: Fate(rule, reason) for i, (rule, reason) in found.items()}


def _contaminated(ledger: Ledger, questions: Sequence[BenchmarkQuestion]) -> None:
    for i, hits in enumerate(ledger.features.hits or []):
        if hits:
            question = questions[hits[0].question]
            text = " ".join(question.text.split())
            shown = text if len(text) <= 200 else text[:199] + "…"
            reason = f"holds {hits[0].score:.0%} of a question of {question.benchmark} ({question.place}): {shown}"
            ledger.fates[i] = Fate("contaminated", reason, similarity=hits[0].score)


def _duplicates(ledger: Ledger, data: Data) -> None:
    f = ledger.features
    if data.duplicates.exact:
        rows = np.flatnonzero(ledger.alive)
        first = rows[repeated(f.texts[rows])]
        for i, j in zip(rows.tolist(), first.tolist(), strict=True):
            if i != j:
                ledger.fates[i] = Fate(EXACT, f"the same as {ledger.line(j).place}", j, 1.0)
    if data.duplicates.near and f.signatures is not None:
        for i, j, jaccard in near(f.signatures, data.duplicates.near, ledger.alive, f.threads):
            reason = f"{jaccard:.0%} of its shingles are those of {ledger.line(j).place}"
            ledger.fates[i] = Fate(NEAR, reason, j, jaccard)


def _novelty(ledger: Ledger, data: Data, engine: Engine) -> None:
    # A turn that says "go on" is no copy of another, so rows of conversations take no part.
    rows = [i for i in ledger_rows(ledger) if not ledger.features.threads[i]]
    found = (ledger.line(i).row for i in rows)
    instructions = (tokens(row["instruction"], row["language"]) for row in found)

    decisions = Novelty(data.duplicates.novelty).filter(instructions, spread=engine.spread, slices=engine.slices)
    for n in np.flatnonzero(~decisions.kept).tolist():
        like, f = rows[int(decisions.neighbour[n])], float(decisions.f[n])
        reason = f"its instruction has ROUGE-L {f:.2f} with that of {ledger.line(like).place}"
        ledger.fates[rows[n]] = Fate(NOVELTY, reason, like, f)
