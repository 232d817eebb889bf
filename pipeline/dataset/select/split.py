"""Which rows are trained on (train) and which are only measured (val, holdout)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from pipeline.config.schema import Data
from pipeline.run.errors import UserError
from pipeline.run.nearest import closest


class SplitRow(NamedTuple):
    """What the split depends on. thread: id of the row's conversation, or 0."""

    id: int
    task: str
    exact: bool
    thread: int = 0


def split(rows: Sequence[SplitRow], data: Data, unseen: Collection[int] = ()) -> list[str]:
    """The split of each row: train, val (same tasks, other rows) or holdout (tasks never trained on).

    It is decided by a hash of the row's content, or of its conversation, so copies of a row are in the same split. With
    `data.val` as a share it depends on nothing else: a row stays in its split when the data grows (except the one row
    that is held out if the share of few rows would be none). With a count, new rows can move an old one from val to
    train, never the other way.

    Args:
        unseen: ids of further rows of held-out tasks, whose own task may be another.

    Raises:
        UserError: no row has a task of `data.holdout`, or `data.val` is larger than the number of rows.
    """
    tasks = held_out_tasks({r.task for r in rows if r.task}, data, strict=not unseen)
    # By id and thread: a copy of such a row without a task would otherwise be trained on.
    held_out = {*unseen, *(r.id for r in rows if r.task in tasks)}
    held_out |= {_unit(r) for r in rows if r.task in tasks or r.id in held_out}
    rest = [r for r in rows if r.id not in held_out and _unit(r) not in held_out]
    chosen = _share(rest, data) if 0 < data.val < 1 else _count(rest, data)
    return [
        "holdout" if r.id in held_out or _unit(r) in held_out else "val" if _unit(r) in chosen else "train"
        for r in rows
    ]


def _unit(row: SplitRow) -> int:
    """What stays in one split: a conversation or a single row."""
    return row.thread or row.id


def _share(rest: Sequence[SplitRow], data: Data) -> set[int]:
    """The units whose hash is below the share; at least one of few rows, so that a loss can be measured.

    Empty if nothing would be left to train on.
    """
    limit = int(data.val * (1 << 256))
    chosen: set[int] = set()
    lowest: tuple[int, int] | None = None  # number and unit; the numbers of all rows would be 200 bytes each
    for unit in (_unit(r) for r in rest if r.exact or not data.val_exact_only):
        number = int(rank(_name(unit), data.seed), 16)
        if number < limit:
            chosen.add(unit)
        elif lowest is None or number < lowest[0]:
            lowest = number, unit
    if not chosen and lowest and len({_unit(r) for r in rest}) > 1:
        return {lowest[1]}
    return chosen


def _count(rest: Sequence[SplitRow], data: Data) -> set[int]:
    """The units with the lowest hashes, up to `data.val` different rows together."""
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
    count = 0
    for unit in sorted(candidates, key=lambda u: rank(_name(u), data.seed)):
        if count + len(rows[unit]) <= data.val:  # a conversation that is too large is skipped
            chosen.add(unit)
            count += len(rows[unit])
    return chosen


def held_out_tasks(tasks: set[str], data: Data, strict: bool = True) -> set[str]:
    """Tasks that `data.holdout` names, directly or by their group.

    Raises:
        UserError: (if strict) no row has the task or a task of the group.
    """
    selected: set[str] = set()
    for name in data.holdout:
        members = group_members(name, tasks, data.groups) if name in data.groups else {name} & tasks
        if not members and strict:
            near = closest(name, [*tasks, *data.groups])
            known = f"tasks in the data: {', '.join(sorted(tasks)[:20]) or 'none; name them with data.sources[].task'}"
            what = (
                f"no row has a task of the group {name!r}" if name in data.groups else f"no row has the task {name!r}"
            )
            raise UserError(what, "data.holdout", f"did you mean {near[0]}?" if near and near[0] != name else known)
        selected |= members
    return selected


def group_members(name: str, tasks: set[str], groups: Mapping[str, Sequence[str]]) -> set[str]:
    """The tasks that a group's patterns match."""
    return {t for t in tasks if any(fnmatchcase(t, pattern) for pattern in groups[name])}


def _name(id: int) -> str:
    return f"{id:016x}"


def rank(id: str, seed: int) -> str:
    """A hash (hexadecimal) that depends only on a row's content and the seed, to choose rows by."""
    return hashlib.sha256(f"{seed}:{id}".encode()).hexdigest()
