"""The split: by content, so that it stays the same wherever and whenever the rows are read."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.schema import Data
from pipeline.dataset.example import Example
from pipeline.dataset.select.split import SplitRow, split
from pipeline.run.errors import UserError


def rows(count: int, task: str = "", exact: bool = False, thread: int = 0, of: str = "question") -> list[SplitRow]:
    made = [Example.of(f"{of} {i}", "", f"answer {i}", source="s") for i in range(count)]
    return [SplitRow(int(e.id, 16), task, exact, thread) for e in made]


def divide(members: list[SplitRow], **data: Any) -> dict[str, list[SplitRow]]:
    parts = split(members, Data(**{"seed": 1, **data}))
    return {part: [m for m, p in zip(members, parts, strict=True) if p == part] for part in ("train", "val", "holdout")}


def test_a_count_is_exact_and_new_rows_never_take_one_out_of_training() -> None:
    before, after = divide(rows(50), val=10), divide(rows(60), val=10)
    assert len(before["val"]) == len(after["val"]) == 10
    assert not set(before["train"]) & set(after["val"])
    assert set(divide(rows(50)[::-1], val=10)["val"]) == set(before["val"])
    assert divide(rows(50), val=10, seed=2)["val"] != before["val"]


def test_with_a_share_no_row_changes_sides() -> None:
    before, after = divide(rows(2000), val=0.1), divide(rows(4000), val=0.1)
    assert set(before["val"]) < set(after["val"])
    assert set(before["train"]) < set(after["train"])
    assert 150 < len(before["val"]) < 250
    more = divide(rows(2000), val=0.2)
    assert set(before["val"]) < set(more["val"])


def test_a_share_of_few_rows_holds_out_one() -> None:
    for count in (2, 5, 50):
        for seed in range(5):
            found = divide(rows(count), val=0.001, seed=seed)
            assert (len(found["val"]), len(found["train"])) == (1, count - 1)
    assert not divide(rows(1), val=0.02)["val"]  # nothing would be left to train on
    assert not divide(rows(50), val=0.02, val_exact_only=True)["val"]
    (alone,) = divide(rows(50) + rows(1, exact=True, of="exact"), val=0.001, val_exact_only=True)["val"]
    assert alone.exact


def test_copies_of_a_held_out_row_leave_training() -> None:
    found = divide(rows(10) + rows(10), val=3)
    assert not set(found["train"]) & set(found["val"])
    assert len(found["val"]) == 6


def test_a_conversation_stays_together() -> None:
    talk = [row for t in range(1, 21) for row in rows(4, thread=t, of=f"talk {t}")]
    for val in (0.3, 10):
        found = divide(talk + rows(20), val=val)
        assert found["val"]
        assert not {m.thread for m in found["val"] if m.thread} & {m.thread for m in found["train"]}
    assert len(divide(talk, val=10)["val"]) == 8  # of conversations of four
    assert len(divide(talk + rows(20), val=10)["val"]) == 10


def test_a_conversation_stays_together_though_its_first_turn_is_common() -> None:
    talk = [row for t in range(1, 101) for row in (*rows(1, thread=t), *rows(1, thread=t, of=f"talk {t}"))]
    found = divide(talk, val=0.2)
    assert not {m.thread for m in found["val"]} & {m.thread for m in found["train"]}
    assert 20 < len(found["val"]) < 70


def test_copies_of_a_row_of_a_held_out_task_leave_training() -> None:
    unseen = rows(2, "sort")
    found = divide([*unseen, *rows(5), *rows(3, "add", of="sum")], holdout=["sort"])
    assert {m.id for m in found["holdout"]} == {m.id for m in unseen}
    assert len(found["holdout"]) == 4
    assert not {m.id for m in found["train"]} & {m.id for m in unseen}


def test_held_out_tasks_and_groups() -> None:
    members = [*rows(3, "sort"), *rows(3, "add", of="x"), *rows(3, "add-two", of="y")]
    found = divide(members, val=1, holdout=["sort"])
    assert {m.task for m in found["holdout"]} == {"sort"}
    assert len(found["val"]) == 1
    groups = {"sums": ["add*"], "none": ["q*"]}
    assert {m.task for m in divide(members, holdout=["sums"], groups=groups)["holdout"]} == {"add", "add-two"}
    with pytest.raises(UserError, match="'srot'") as caught:
        divide(members, holdout=["srot"])
    assert caught.value.fix == "did you mean sort?"
    with pytest.raises(UserError, match="'none'"):
        divide(members, holdout=["none"], groups=groups)
    with pytest.raises(UserError) as caught:
        divide(members, holdout=["qqqqqq"])
    assert caught.value.fix == "tasks in the data: add, add-two, sort"


def test_val_too_large() -> None:
    with pytest.raises(UserError, match="4 different rows") as caught:
        divide(rows(4) + rows(4), val=4)
    assert caught.value.where == "data.val"
    assert caught.value.fix == "set data.val below 4"


@pytest.mark.parametrize("val", [5, 0.5])
def test_exact_only(val: float) -> None:
    members = [*rows(20, exact=True), *rows(20, of="open")]
    found = divide(members, val=val, val_exact_only=True)
    assert found["val"]
    assert all(m.exact for m in found["val"])
    with pytest.raises(UserError, match="only 20 different rows"):
        divide(members, val=21, val_exact_only=True)
