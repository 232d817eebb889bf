"""How many steps a run has, and the rows and the learning rate of each."""

from __future__ import annotations

import math

from pipeline.config.schema import Train
from pipeline.training.order import micro_batches, step_rows


def total_steps(rows: int, train: Train) -> int:
    """Optimiser steps of the run, as Hugging Face's Trainer counts them.

    KoAlpaca's 101,622 rows, 128 a step, 3 epochs are 2,382 steps in either way of `steps_an_epoch`.
    """
    steps = math.ceil(steps_an_epoch(rows, train) * train.epochs)
    return min(steps, train.max_steps) if train.max_steps else steps


def steps_an_epoch(rows: int, train: Train) -> int:
    """Today an epoch ends with a smaller step when rows do not divide. With `train.accumulation_4_28` only whole steps
    count, so that 52,002 rows in micro-batches of 16, eight a step, are 406."""
    if train.accumulation_4_28:
        return max(1, _micro_batches(rows, train) // train.accumulation_4_28)
    return math.ceil(rows / train.batch_size)


def rows_of(step: int, rows: int, train: Train) -> list[int]:
    """Row numbers of a step (from 0), of `rows` in all."""
    return step_rows(step, rows, train.batch_size, train.seed, train.accumulation_4_28)


def _micro_batches(rows: int, train: Train) -> int:
    """Of an epoch, with `train.accumulation_4_28`; the last one may have fewer rows."""
    return math.ceil(rows / (train.batch_size // train.accumulation_4_28))


def epochs_of(step: int, rows: int, train: Train) -> float:
    """How many times the rows have been seen after so many steps; the last step of an epoch may be a smaller one."""
    if train.accumulation_4_28:
        an_epoch, accumulation = _micro_batches(rows, train), train.accumulation_4_28
        seen = micro_batches(step - 1, an_epoch, accumulation).stop if step else 0
        whole, part = divmod(seen, an_epoch)
        return round(whole + part * (train.batch_size // accumulation) / rows, 4)
    whole, part = divmod(step, math.ceil(rows / train.batch_size))
    return round(whole + part * train.batch_size / rows, 4)


def warmup_steps(total: int, warmup: float) -> int:
    """Below 1, `warmup` is a share of all steps, rounded up; otherwise steps."""
    return math.ceil(total * warmup) if warmup < 1 else int(warmup)


def learning_rate(step: int, total: int, train: Train) -> float:
    """Rate of the step with this number, from 0; the formulas of transformers' optimization.py.

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
