"""How many rows of each source and task are trained on: limits, weights, rehearsal. Rows are chosen by hash."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.config.schema import Data, Source
from pipeline.dataset.read.source import labels
from pipeline.dataset.select.split import rank
from pipeline.run.errors import UserError


class Candidate(NamedTuple):
    """A row that may be trained on: its number, id, source number and task."""

    at: int
    id: int
    source: int
    task: str


@dataclass
class Mix:
    """left_out: (rule, reason) by row. shares: an entry for each source."""

    left_out: dict[int, tuple[str, str]] = field(default_factory=dict)
    shares: list[dict[str, float | int | str]] = field(default_factory=list)


def limited(rows: Sequence[Candidate], sources: Sequence[Source], seed: int) -> dict[int, tuple[str, str]]:
    """Rows over their source's `limit`, with the reason."""
    over: dict[int, tuple[str, str]] = {}
    for number, source in enumerate(sources):
        if source.limit:
            mine = [r for r in rows if r.source == number]
            reason = ("limit", f"over the source's limit of {source.limit:,} rows")
            over |= dict.fromkeys(_left_out(mine, source.limit, seed), reason)
    return over


def mix(rows: Sequence[Candidate], data: Data) -> Mix:
    """Chooses among the training rows.

    First `task_limit`: FLAN (Wei et al. 2021) capped every task so that none drowns the others. Then weights: the
    largest selection in which the weighted sources have the ratio of their weights, repeats counted. Then
    rehearsal: as many rows of its sources as make up `data.rehearsal` of the result.

    Raises:
        UserError: the rehearsal sources have too few rows, or a weighted source has none.
    """
    result = Mix()
    rows = _limit_tasks(rows, data, result)
    available = _by_source(rows)
    wanted = {n: len(available[n]) for n in range(len(data.sources))}
    weighted = {n: s.weight for n, s in enumerate(data.sources) if s.weight is not None and not s.rehearsal}
    if weighted:
        if empty := [labels(data.sources)[n] for n in weighted if not wanted[n]]:
            raise UserError(
                f"a source with a weight has no training row left: {empty[0]}", "data.sources",
                "see rejected.jsonl of a build without the weight; take it out, or take its weight away",
            )  # fmt: skip
        scale = min(wanted[n] * data.sources[n].repeat / w for n, w in weighted.items())
        for n, w in weighted.items():
            wanted[n] = max(round(scale * w / data.sources[n].repeat), 1)
    if data.rehearsal:
        _rehearse(wanted, data)
    for n, source in enumerate(data.sources):
        why = "rehearsal" if source.rehearsal else "weight"
        reason = (why, f"left out so that {source.path} has its {'share' if why == 'rehearsal' else 'weight'}")
        result.left_out |= dict.fromkeys(_left_out(available[n], wanted[n], data.seed), reason)
    total = sum(wanted[n] * s.repeat for n, s in enumerate(data.sources)) or 1
    result.shares = [
        {
            "source": s.path, "available": len(available[n]), "taken": wanted[n], "repeat": s.repeat,
            "share": round(wanted[n] * s.repeat / total, 6),
        }
        for n, s in enumerate(data.sources)
    ]  # fmt: skip
    return result


def _limit_tasks(rows: Sequence[Candidate], data: Data, result: Mix) -> Sequence[Candidate]:
    if data.task_limit is None:
        return rows
    by_task: defaultdict[str, list[Candidate]] = defaultdict(list)
    for r in rows:
        by_task[r.task].append(r)
    for task, mine in by_task.items():
        if task:  # the limit does not apply to rows without a task
            reason = ("task-limit", f"over data.task_limit of {data.task_limit:,} rows for {task}")
            result.left_out |= dict.fromkeys(_left_out(mine, data.task_limit, data.seed), reason)
    return [r for r in rows if r.at not in result.left_out]


def _rehearse(wanted: dict[int, int], data: Data) -> None:
    """Sets how many rows the rehearsal sources give: share / (1 - share) of all others, split by what they have."""
    sources = [n for n, s in enumerate(data.sources) if s.rehearsal]
    others = sum(wanted[n] * s.repeat for n, s in enumerate(data.sources) if not s.rehearsal)
    need = round(others * data.rehearsal / (1 - data.rehearsal))
    have = sum(wanted[n] * data.sources[n].repeat for n in sources)
    if have < need:
        most = have / (have + others) if have + others else 0.0
        raise UserError(
            f"rehearsal = {data.rehearsal:g} needs {need:,} rows, the sources marked rehearsal have {have:,}",
            "data.rehearsal", f"add rows, set repeat on them, or lower it to {math.floor(most * 1e4) / 1e4:g}",
        )  # fmt: skip
    for n in sources:  # each its share of what is still needed, so that rounding never goes below zero
        repeat = data.sources[n].repeat
        here = wanted[n] * repeat
        rows = round(need * here / have) if have else 0
        need, have = need - rows, have - here
        wanted[n] = min(wanted[n], round(rows / repeat))


def _by_source(rows: Iterable[Candidate]) -> defaultdict[int, list[Candidate]]:
    by_source: defaultdict[int, list[Candidate]] = defaultdict(list)
    for r in rows:
        by_source[r.source].append(r)
    return by_source


def _left_out(rows: Sequence[Candidate], most: int, seed: int) -> list[int]:
    """Numbers of the rows that are left out if at most `most` may stay."""
    if len(rows) <= most:
        return []
    # Not the hash of the split: the rows that stay would be the ones that the split chooses for val.
    order = sorted(rows, key=lambda r: (rank(f"stay:{r.id:016x}", seed), r.at))
    return [r.at for r in order[most:]]
