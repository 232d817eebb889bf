"""Steps of a run: how many, the rows of each, and its learning rate; pure functions, so resume needs no state.

If the rows of an epoch do not fill its last step, there are two ways to go on. With 5 rows, 4 a step, 2 epochs:

    an epoch ends with a smaller step     | 0 1 2 3 | 4 | 0' 1' 2' 3' | 4' |
    carried, micro-batches of 2 rows      | 0 1 2 3 | 4 0' 1' |                  2' 3' 4' are not used

The second is `train.accumulation_4_28`: micro-batches are numbered through the run, each `accumulation` of them are a
step, and a run has epochs x floor(micro-batches an epoch / accumulation) steps (transformers v4.28.1, trainer.py,
`_inner_training_loop`: `num_update_steps_per_epoch`, `total_batched_samples`). An epoch with fewer micro-batches than
`accumulation` still ends a step.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from pipeline.config.schema import Train


def total_steps(rows: int, train: Train) -> int:
    """Optimiser steps of the run, as Hugging Face's Trainer counts them.

    KoAlpaca's 101,622 rows, 128 a step, 3 epochs are 2,382 steps with and without `accumulation_4_28`.
    """
    steps = math.ceil(steps_per_epoch(rows, train) * train.epochs)
    return min(steps, train.max_steps) if train.max_steps else steps


def steps_per_epoch(rows: int, train: Train) -> int:
    """Steps of an epoch, the smaller last one included. With `train.accumulation_4_28` only whole steps count: 52,002
    rows in micro-batches of 16, eight a step, are 406."""
    if train.accumulation_4_28:
        return max(1, _micro_batches_per_epoch(rows, train) // train.accumulation_4_28)
    return math.ceil(rows / train.batch_size)


def _micro_batches_per_epoch(rows: int, train: Train) -> int:
    """With `train.accumulation_4_28`; the last one may have fewer rows."""
    return math.ceil(rows / (train.batch_size // train.accumulation_4_28))


def every(setting: int, total: int, times: int) -> int:
    """Steps between two events: the setting, or where that is 0, so many that they occur `times` times in a run."""
    return setting or max(1, math.ceil(total / times))


def step_rows(step: int, rows: int, train: Train) -> list[int]:
    """Row numbers of the optimiser step `step` (from 0), of `rows` in all."""
    if train.accumulation_4_28:
        return _carried_rows(step, rows, train)
    epoch, within = divmod(step, math.ceil(rows / train.batch_size))
    order = epoch_order(rows, train.seed, epoch)
    return order[within * train.batch_size : (within + 1) * train.batch_size].tolist()


@functools.lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(rows), int64."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def _carried_rows(step: int, rows: int, train: Train) -> list[int]:
    per_epoch, size = _micro_batches_per_epoch(rows, train), train.batch_size // train.accumulation_4_28
    chosen = []
    for number in _micro_batches(step, per_epoch, train.accumulation_4_28):
        epoch, within = divmod(number, per_epoch)
        chosen += epoch_order(rows, train.seed, epoch)[within * size : (within + 1) * size].tolist()
    return chosen


def _micro_batches(step: int, per_epoch: int, accumulation: int) -> range:
    """The micro-batches of a step, numbered through the run."""
    if per_epoch >= accumulation:
        return range(step * accumulation, (step + 1) * accumulation)
    limit = (step + 1) * per_epoch + 1  # each epoch ends at least one step
    ends = sorted({0, *range(per_epoch, limit, per_epoch), *range(accumulation, limit, accumulation)})
    return range(ends[step], ends[step + 1])


def epochs_after(step: int, rows: int, train: Train) -> float:
    """Epochs that are done after so many steps; the last step of an epoch may be a smaller one."""
    if train.accumulation_4_28:
        per_epoch, accumulation = _micro_batches_per_epoch(rows, train), train.accumulation_4_28
        done = _micro_batches(step - 1, per_epoch, accumulation).stop if step else 0
        epochs, rest = divmod(done, per_epoch)
        return round(epochs + rest * (train.batch_size // accumulation) / rows, 4)
    epochs, rest = divmod(step, math.ceil(rows / train.batch_size))
    return round(epochs + rest * train.batch_size / rows, 4)


def warmup_steps(total: int, warmup: float) -> int:
    """Below 1, `warmup` is a share of all steps, rounded up; otherwise a number of steps."""
    return math.ceil(total * warmup) if warmup < 1 else int(warmup)


def learning_rate(step: int, total: int, train: Train) -> float:
    """Learning rate of the step (from 0), with the formulas of transformers' optimization.py.

    Warm-up rises from 0 at step 0. linear falls to 0 at `total`, cosine along half a wave, constant stays.
    """
    warmup = warmup_steps(total, train.warmup)
    if step < warmup:
        return train.lr * step / max(1, warmup)
    done = (step - warmup) / max(1, total - warmup)
    if train.schedule == "linear":
        return train.lr * max(0.0, 1 - done)
    if train.schedule == "cosine":
        return train.lr * max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
    return train.lr
