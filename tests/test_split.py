"""The split: by content, so that it stays the same wherever and whenever the rows are read."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.dataset.split import split
from pipeline.errors import UserError
from pipeline.record import Example


def examples(count: int, **more: Any) -> list[Example]:
    return [Example.of(f"question {i}", "", f"answer {i}", source="s", **more) for i in range(count)]


def test_split_is_stable_when_rows_are_added() -> None:
    before = split(examples(50), 10, [], seed=1)
    after = split(examples(60), 10, [], seed=1)
    assert len(before.val) == len(after.val) == 10
    new = {e.id for e in examples(60)[50:]}
    assert {e.id for e in after.val} <= {e.id for e in before.val} | new
    shuffled = split(examples(50)[::-1], 10, [], seed=1)
    assert shuffled.val == before.val[::-1]
    assert split(examples(50), 10, [], seed=2).val != before.val
    assert before.train == [e for e in examples(50) if e not in before.val]


def test_copies_of_a_held_out_row_leave_training() -> None:
    rows = examples(10)
    parts = split(rows + rows, 3, [], seed=1)
    assert not {e.id for e in parts.train} & {e.id for e in parts.val}
    assert len(parts.train) + len(parts.val) == 20


def test_copies_of_a_row_of_a_held_out_task_leave_training() -> None:
    unseen = examples(2, task="sort")
    parts = split([*unseen, *examples(5), *examples(3, task="add")], 0, ["sort"], seed=1)
    assert len({e.id for e in parts.holdout}) == 2
    assert not {e.id for e in parts.train} & {e.id for e in unseen}


def test_held_out_tasks() -> None:
    rows = [*examples(3, task="sort"), *[Example.of(f"x{i}", "", "y", source="s", task="add") for i in range(3)]]
    parts = split(rows, 1, ["sort"], seed=1)
    assert [e.task for e in parts.holdout] == ["sort"] * 3
    assert {e.task for e in parts.train + parts.val} == {"add"}
    with pytest.raises(UserError, match="no row has the task 'srot'") as caught:
        split(rows, 0, ["srot"], seed=1)
    assert caught.value.fix == "did you mean sort?"
    with pytest.raises(UserError) as caught:
        split(rows, 0, ["qqqqqq"], seed=1)
    assert caught.value.fix == "tasks in the data: add, sort"


def test_val_too_large() -> None:
    rows = examples(4)
    with pytest.raises(UserError, match="val = 4 leaves nothing to train on: there are 4 different rows") as caught:
        split(rows + rows, 4, [], seed=1)
    assert caught.value.fix == "set data.val below 4"
    assert len(split(rows, 3, [], seed=1).train) == 1


def test_exact_only() -> None:
    rows = [*examples(5), *[Example.of(f"x{i}", "", "y", source="s", exact=True) for i in range(3)]]
    assert all(e.exact for e in split(rows, 3, [], seed=1, exact_only=True).val)
    with pytest.raises(UserError, match="val = 4, but only 3 different rows are marked exact"):
        split(rows, 4, [], seed=1, exact_only=True)
