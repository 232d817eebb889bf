"""How many steps a run has, and the learning rate at each."""

from __future__ import annotations

import math

from pipeline.config import Train


def total_steps(rows: int, train: Train) -> int:
    """Optimiser steps of the run: each epoch ends with a smaller step when rows do not divide.

    As Hugging Face's Trainer counts: KoAlpaca's 101,622 rows, 128 a step, 3 epochs are 2,382 steps.
    """
    steps = math.ceil(math.ceil(rows / train.batch_size) * train.epochs)
    return min(steps, train.max_steps) if train.max_steps else steps


def epochs_of(step: int, rows: int, batch_size: int) -> float:
    """How many times the rows have been seen after so many steps; the last step of an epoch may be a smaller one."""
    whole, part = divmod(step, math.ceil(rows / batch_size))
    return round(whole + part * batch_size / rows, 4)


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
