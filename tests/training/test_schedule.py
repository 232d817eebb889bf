"""Steps of a run: their number, their rows, their learning rate."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipeline.config.schema import Train
from pipeline.run.errors import UserError
from pipeline.training.schedule import (
    epoch_order,
    epochs_after,
    learning_rate,
    step_rows,
    total_steps,
    warmup_steps,
)
from tests.helpers.tiny import make_config, run_to


def test_published_step_counts() -> None:
    assert total_steps(101_622, Train(batch_size=128, epochs=3)) == 2382  # KoAlpaca 7B v1.0, its wandb summary
    assert total_steps(52_002, Train(batch_size=128, epochs=3)) == 1221
    assert total_steps(10, Train(batch_size=4, epochs=1.5)) == 5
    assert total_steps(10, Train(batch_size=4, epochs=3, max_steps=2)) == 2
    for rows, accumulation, epochs, steps in (
        (52_002, 8, 3, 1218), (52_002, 8, 5, 2030), (49_942, 32, 3, 1170), (49_942, 16, 10, 3900), (101_622, 8, 3, 2382)
    ):  # fmt: skip
        assert total_steps(rows, Train(batch_size=128, accumulation_4_28=accumulation, epochs=epochs)) == steps


def loop_of_4_28(rows: int, size: int, accumulation: int, epochs: float) -> list[list[tuple[int, int]]]:
    """(epoch, place in its order) of the rows of every step, as the loop of transformers v4.28.1 goes about it: one
    counter of micro-batches for the whole run, gradients kept until a step is made, and an end at `max_steps`."""
    batches = [range(start, min(start + size, rows)) for start in range(0, rows, size)]
    most = math.ceil(epochs * max(1, len(batches) // accumulation))
    steps: list[list[tuple[int, int]]] = []
    kept: list[tuple[int, int]] = []
    counted = 0
    for epoch in range(math.ceil(epochs)):
        for n, batch in enumerate(batches, 1):
            counted += 1
            kept += [(epoch, place) for place in batch]
            small = len(batches) <= accumulation and n == len(batches)
            if counted % accumulation == 0 or small:
                steps.append(kept)
                kept = []
            if len(steps) == most:
                return steps
    return steps


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 23, 40])
@pytest.mark.parametrize(("size", "accumulation"), [(2, 4), (4, 2), (1, 8), (8, 1)])
def test_left_over_micro_batches_are_carried_as_in_2023(rows: int, size: int, accumulation: int) -> None:
    for epochs in (1, 2.5, 7):
        settings = Train(batch_size=8, accumulation_4_28=accumulation, epochs=epochs, seed=7)
        theirs = loop_of_4_28(rows, size, accumulation, epochs)
        assert total_steps(rows, settings) == len(theirs)
        for step, places in enumerate(theirs):
            wanted = [int(epoch_order(rows, 7, epoch)[place]) for epoch, place in places]
            assert step_rows(step, rows, settings) == wanted
            seen = sum(len(places) for places in theirs[: step + 1])
            assert epochs_after(step + 1, rows, settings) == round(seen / rows, 4)


def test_a_step_over_the_border_of_epochs_by_eye() -> None:
    """Five rows, two a micro-batch, four a step: the fifth row goes with the first two of the next epoch."""
    settings = Train(batch_size=4, accumulation_4_28=2, epochs=2, seed=7)
    first, second = (epoch_order(5, 7, epoch).tolist() for epoch in (0, 1))
    assert [step_rows(step, 5, settings) for step in range(2)] == [first[:4], [first[4], *second[:2]]]
    assert (total_steps(5, settings), total_steps(5, Train(batch_size=4, epochs=2))) == (2, 4)


def test_schedules_follow_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, make in (("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
        theirs = make(optimizer, 5, 23)
        for step in range(23):
            ours = learning_rate(step, 23, Train(lr=3e-4, warmup=5, schedule=name))
            assert math.isclose(ours, optimizer.param_groups[0]["lr"], rel_tol=1e-9, abs_tol=1e-15)
            optimizer.step()
            theirs.step()
    assert warmup_steps(1221, 0.03) == 37
    assert learning_rate(9, 10, Train(lr=1.0, warmup=0, schedule="constant")) == 1.0


def test_every_epoch_takes_every_row_once() -> None:
    settings = Train(batch_size=4, seed=7)
    for epoch in range(2):
        rows = [r for step in range(3) for r in step_rows(epoch * 3 + step, 10, settings)]
        assert sorted(rows) == list(range(10))
    assert step_rows(0, 10, settings) != step_rows(3, 10, settings)  # another order in the next epoch
    assert step_rows(2, 10, settings) == step_rows(2, 10, settings)


def test_epochs() -> None:
    """77 rows, 8 at once: ten steps an epoch, the last of five rows."""
    settings = Train(batch_size=8)
    assert [epochs_after(step, 77, settings) for step in (0, 1, 9, 10, 11, 30)] == [0, 0.1039, 0.9351, 1, 1.1039, 3]


def test_unequal_micro_batches_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"accumulation_4_28.*divide"):
        make_config(tmp_path, base, "train.batch_size=8", "train.accumulation_4_28=3")


def test_large_seeds(base: Path, tmp_path: Path) -> None:
    """Dates are what many take."""
    words = ("train.seed=20261123", "train.max_steps=1", "eval.prompts=[]")
    run = run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert run.manifest("adapter")["counts"]["steps"] == 1
    with pytest.raises(UserError, match=r"train\.seed"):
        make_config(tmp_path, base, f"train.seed={1 << 63}")
