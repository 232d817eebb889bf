"""Which rows a step learns from: a pure function of (seed, epoch, step), so that resume needs no loader state."""

from __future__ import annotations

import functools
import math

import numpy as np


@functools.lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(rows), int64."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def step_rows(step: int, rows: int, batch_size: int, seed: int) -> list[int]:
    """Row numbers of the optimiser step `step` (from 0); the last step of an epoch takes what is left."""
    per_epoch = math.ceil(rows / batch_size)
    epoch, within = divmod(step, per_epoch)
    order = epoch_order(rows, seed, epoch)
    return order[within * batch_size : (within + 1) * batch_size].tolist()
