"""Which rows are learnt and which are only measured."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.record import Example


@dataclass(frozen=True)
class Split:
    """train: learnt. val: same tasks, unseen rows. holdout: tasks never trained on."""

    train: list[Example]
    val: list[Example]
    holdout: list[Example]


def split(examples: Sequence[Example], val: int, holdout: Sequence[str], seed: int, exact_only: bool = False) -> Split:
    """Splits by content hash, each part in the order of the sources.

    Equal rows have equal hashes, so copies of a held-out row leave training too.

    Raises:
        UserError: a held-out task that no row has, or more held-out rows than there are.
    """
    tasks = {e.task for e in examples if e.task}
    for name in holdout:
        if name not in tasks:
            near = difflib.get_close_matches(name, tasks, 1)
            hint = (
                f"did you mean {near[0]}?" if near else f"tasks in the data: {', '.join(sorted(tasks)[:20]) or 'none'}"
            )
            raise UserError(f"no row has the task {name!r}", "data.holdout", hint)
    # By id: a copy of such a row that carries no task would otherwise be learnt.
    unseen = {e.id for e in examples if e.task in set(holdout)}
    apart = [e for e in examples if e.id in unseen]
    rest = [e for e in examples if e.id not in unseen]
    distinct = len({e.id for e in rest})
    candidates = {e.id for e in rest if e.exact or not exact_only}
    if val and val >= distinct:
        raise UserError(
            f"val = {val} leaves nothing to train on: there are {distinct} different rows", "data.val",
            f"set data.val below {distinct}",
        )  # fmt: skip
    if val > len(candidates):
        raise UserError(
            f"val = {val}, but only {len(candidates)} different rows are marked exact", "data.val",
            f"set data.val to at most {len(candidates)}",
        )  # fmt: skip
    chosen = set(sorted(candidates, key=lambda i: rank(i, seed))[:val])
    return Split([e for e in rest if e.id not in chosen], [e for e in rest if e.id in chosen], apart)


def rank(id: str, seed: int) -> str:
    """A row's place in a lottery that depends on nothing but its content and the seed."""
    return hashlib.sha256(f"{seed}:{id}".encode()).hexdigest()
