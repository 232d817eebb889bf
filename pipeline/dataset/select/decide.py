"""Which of the accepted rows are kept, and in which split.

    contamination -> exact duplicates -> near-duplicates -> novelty -> limits -> split -> mixture

Each step sees only the rows that the steps before it kept. Contaminated rows are dropped first, so that no row is
dropped for its similarity to one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.config.schema import Data
from pipeline.dataset.engine import Engine
from pipeline.dataset.ledger import Drop, Ledger
from pipeline.dataset.read.benchmark import BenchmarkQuestion
from pipeline.dataset.select.duplicates import near, repeated
from pipeline.dataset.select.mix import Candidate, limited, mix
from pipeline.dataset.select.novelty import filter_novel
from pipeline.dataset.select.rouge_tokens import tokens
from pipeline.dataset.select.split import SplitRow, held_out_tasks, split

EXACT, NEAR, NOVELTY = "duplicate", "near-duplicate", "not-novel"
KINDS = {EXACT: "exact", NEAR: "near", NOVELTY: "novelty"}
LEFT_OUT = ("limit", "task-limit", "weight", "rehearsal")  # rules that drop rows without a fault


def decide(
    ledger: Ledger, data: Data, questions: Sequence[BenchmarkQuestion], engine: Engine
) -> tuple[dict[int, str], list[dict[str, float | int | str]]]:
    """Fills `ledger.drops`; returns the split of every other row, and each source's share of the training rows.

    Raises:
        UserError: the split or the mixture cannot be made as the config says.
    """
    _contaminated(ledger, questions)
    _duplicates(ledger, data)
    if data.duplicates.novelty:
        _novelty(ledger, data, engine)
    if any(source.limit for source in data.sources):
        _leave_out(ledger, limited(_candidates(ledger, _remaining(ledger)), data.sources, data.seed))
    rows = _remaining(ledger)
    f = ledger.features
    split_rows = [SplitRow(int(f.ids[i]), f.tasks[i], bool(f.exact[i]), int(f.threads[i])) for i in rows]
    splits = dict(zip(rows, split(split_rows, data, _unseen(ledger, data)), strict=True))
    mixture = mix(_candidates(ledger, [i for i in rows if splits[i] == "train"]), data)
    _leave_out(ledger, mixture.left_out)
    return {i: name for i, name in splits.items() if i not in ledger.drops}, mixture.shares


def _unseen(ledger: Ledger, data: Data) -> set[int]:
    """Ids of kept rows for which a similar row of a held-out task was dropped.

    Raises:
        UserError: no row that was read has a task that `data.holdout` names.
    """
    f = ledger.features
    tasks = held_out_tasks({task for task in f.tasks if task}, data)
    kept = [ledger.kept_like(i) for i, drop in ledger.drops.items() if drop.like >= 0 and f.tasks[i] in tasks]
    return {int(f.ids[i]) for i in kept}


def _remaining(ledger: Ledger) -> list[int]:
    return [int(i) for i in np.flatnonzero(ledger.remaining)]


def _candidates(ledger: Ledger, rows: Sequence[int]) -> list[Candidate]:
    f = ledger.features
    return [Candidate(i, int(f.ids[i]), ledger.source_of(i), f.tasks[i]) for i in rows]


def _leave_out(ledger: Ledger, left_out: dict[int, tuple[str, str]]) -> None:
    ledger.drops |= {i: Drop(rule, reason) for i, (rule, reason) in left_out.items()}


def _contaminated(ledger: Ledger, questions: Sequence[BenchmarkQuestion]) -> None:
    for i, hits in enumerate(ledger.features.hits or []):
        if hits:
            ledger.drops[i] = Drop("contaminated", hits[0].reason(questions), similarity=hits[0].score)


def _duplicates(ledger: Ledger, data: Data) -> None:
    f = ledger.features
    if data.duplicates.exact:
        rows = np.flatnonzero(ledger.remaining)
        first = rows[repeated(f.texts[rows])]
        for i, j in zip(rows.tolist(), first.tolist(), strict=True):
            if i != j:
                ledger.drops[i] = Drop(EXACT, f"the same as {ledger.stored(j).place}", j, 1.0)
    if data.duplicates.near and f.signatures is not None:
        for i, j, jaccard in near(f.signatures, data.duplicates.near, ledger.remaining, f.threads):
            reason = f"{jaccard:.0%} of its shingles are those of {ledger.stored(j).place}"
            ledger.drops[i] = Drop(NEAR, reason, j, jaccard)


def _novelty(ledger: Ledger, data: Data, engine: Engine) -> None:
    # Two turns that say "go on" are not duplicates, so rows of conversations are not compared.
    rows = [i for i in _remaining(ledger) if not ledger.features.threads[i]]
    stored = (ledger.stored(i).row for i in rows)
    instructions = (tokens(row["instruction"], row["language"]) for row in stored)
    decisions = filter_novel(instructions, data.duplicates.novelty, engine.spread, engine.slices)
    for n in np.flatnonzero(~decisions.kept).tolist():
        like, f = rows[int(decisions.neighbour[n])], float(decisions.f[n])
        reason = f"its instruction has ROUGE-L {f:.2f} with that of {ledger.stored(like).place}"
        ledger.drops[rows[n]] = Drop(NOVELTY, reason, like, f)
