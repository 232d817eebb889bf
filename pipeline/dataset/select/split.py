"""Which rows are learnt and which are only measured."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from pipeline.config.schema import Data
from pipeline.run.errors import UserError
from pipeline.run.nearest import closest

PARTS = ("train", "val", "holdout")


class Member(NamedTuple):
    """What the split knows of a row. `thread`: id of its conversation, or 0."""

    id: int
    task: str
    exact: bool
    thread: int = 0


def split(rows: Sequence[Member], data: Data, unseen: Collection[int] = ()) -> list[str]:
    """The part of each row: train, val (same tasks, unseen rows) or holdout (tasks never trained on).

    A row's side is decided by the hash of its content, or of its conversation where it belongs to one: copies of a row
    go where it goes. With `data.val` as a share, a row's side depends on nothing else: it stays when the data grows,
    but for the one row that is held out where the share of few rows would be none. With a count, new rows can push an
    old one from val to train, never the other way.

    Args:
        unseen: ids of further rows that belong to held-out tasks, though they may not say so.

    Raises:
        UserError: a held-out task that no row has, or more held-out rows than there are.
    """
    tasks = held_out_tasks({r.task for r in rows if r.task}, data, strict=not unseen)
    # By id and thread: a copy of such a row that carries no task would otherwise be learnt.
    apart = {*unseen, *(r.id for r in rows if r.task in tasks)}
    apart |= {_unit(r) for r in rows if r.task in tasks or r.id in apart}
    rest = [r for r in rows if r.id not in apart and _unit(r) not in apart]
    chosen = _share(rest, data) if 0 < data.val < 1 else _count(rest, data)
    return ["holdout" if r.id in apart or _unit(r) in apart else "val" if _unit(r) in chosen else "train" for r in rows]


def _unit(row: Member) -> int:
    """What moves together: a conversation or a single row."""
    return row.thread or row.id


def _share(rest: Sequence[Member], data: Data) -> set[int]:
    """The units whose number in the lottery is below the share; of few rows at least one, so that a loss is measured.

    None where nothing else would be left to train on.
    """
    limit = int(data.val * (1 << 256))
    numbers = {_unit(r): int(rank(_name(_unit(r)), data.seed), 16) for r in rest if r.exact or not data.val_exact_only}
    chosen = {unit for unit, number in numbers.items() if number < limit}
    if not chosen and numbers and len({_unit(r) for r in rest}) > 1:
        return {min(numbers, key=lambda unit: numbers[unit])}
    return chosen


def _count(rest: Sequence[Member], data: Data) -> set[int]:
    """The units with the lowest numbers in the lottery, up to `data.val` different rows together."""
    rows: dict[int, set[int]] = {}
    for r in rest:
        rows.setdefault(_unit(r), set()).add(r.id)
    distinct = len({r.id for r in rest})
    if data.val and data.val >= distinct:
        raise UserError(
            f"val = {data.val} leaves nothing to train on: there are {distinct} different rows", "data.val",
            f"set data.val below {distinct}",
        )  # fmt: skip
    candidates = {_unit(r) for r in rest if r.exact or not data.val_exact_only}
    offered = len({r.id for r in rest if _unit(r) in candidates})
    if data.val > offered:
        raise UserError(
            f"val = {data.val}, but only {offered} different rows are marked exact", "data.val",
            f"set data.val to at most {offered}",
        )  # fmt: skip
    chosen: set[int] = set()
    taken = 0
    for unit in sorted(candidates, key=lambda u: rank(_name(u), data.seed)):
        if taken + len(rows[unit]) <= data.val:  # a conversation that would go over is passed by
            chosen.add(unit)
            taken += len(rows[unit])
    return chosen


def held_out_tasks(tasks: set[str], data: Data, strict: bool = True) -> set[str]:
    """Tasks that `data.holdout` names, by themselves or by their group; `strict`: each name must stand for some."""
    found: set[str] = set()
    for name in data.holdout:
        members = group_members(name, tasks, data.groups) if name in data.groups else {name} & tasks
        if not members and strict:
            near = closest(name, [*tasks, *data.groups])
            there = f"tasks in the data: {', '.join(sorted(tasks)[:20]) or 'none; name them with data.sources[].task'}"
            what = (
                f"no row has a task of the group {name!r}" if name in data.groups else f"no row has the task {name!r}"
            )
            raise UserError(what, "data.holdout", f"did you mean {near[0]}?" if near and near[0] != name else there)
        found |= members
    return found


def group_members(name: str, tasks: set[str], groups: Mapping[str, Sequence[str]]) -> set[str]:
    """The tasks that a group's patterns match."""
    return {t for t in tasks if any(fnmatchcase(t, pattern) for pattern in groups[name])}


def _name(id: int) -> str:
    return f"{id:016x}"


def rank(id: str, seed: int) -> str:
    """A row's place in a lottery that depends on nothing but its content and the seed."""
    return hashlib.sha256(f"{seed}:{id}".encode()).hexdigest()
