"""Which rows a step learns from: a pure function of (seed, epoch, step), so that resume needs no loader state."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

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


def share_of(rows: Sequence[int], lengths: np.ndarray, rank: int, world: int) -> list[int]:
    """The rows of a step that one rank computes: dealt out longest first, there and back, so that all get alike.

    lengths: tokens of every row of the data. With one rank: all of them, as they are.
    """
    if world == 1:
        return list(rows)
    order = sorted(rows, key=lambda row: (-int(lengths[row]), row))
    return [row for n, row in enumerate(order) if rank == (n % world if n // world % 2 == 0 else world - 1 - n % world)]
