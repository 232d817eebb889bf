"""Which rows a step learns from: a pure function of (seed, epoch, step), so that resume needs no loader state.

Where an epoch's rows do not fill its last step, there are two ways to go on. With 5 rows, 4 a step, 2 epochs:

    an epoch ends with a smaller step     | 0 1 2 3 | 4 | 0' 1' 2' 3' | 4' |
    carried, micro-batches of 2 rows      | 0 1 2 3 | 4 0' 1' |                  2' 3' 4' come too late

The second is `train.accumulation_4_28`. Micro-batches are numbered through the whole run, each `accumulation` of them
are a step, and a run has epochs x floor(micro-batches an epoch / accumulation) steps (transformers v4.28.1, trainer.py,
`_inner_training_loop`: `num_update_steps_per_epoch`, `total_batched_samples`). An epoch of fewer micro-batches than
`accumulation` ends a step all the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np


@functools.lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(rows), int64."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def step_rows(step: int, rows: int, batch_size: int, seed: int, accumulation: int = 0) -> list[int]:
    """Row numbers of the optimiser step `step` (from 0); the last step of an epoch takes what is left.

    accumulation: `train.accumulation_4_28`; above 0 what is left goes into the next epoch's first step.
    """
    if accumulation:
        return _carried_rows(step, rows, batch_size // accumulation, seed, accumulation)
    per_epoch = math.ceil(rows / batch_size)
    epoch, within = divmod(step, per_epoch)
    order = epoch_order(rows, seed, epoch)
    return order[within * batch_size : (within + 1) * batch_size].tolist()


def micro_batches(step: int, an_epoch: int, accumulation: int) -> range:
    """The micro-batches of a step, numbered through the run; `an_epoch`: how many an epoch has."""
    if an_epoch >= accumulation:
        return range(step * accumulation, (step + 1) * accumulation)
    most = (step + 1) * an_epoch + 1  # each epoch ends at least one step
    ends = sorted({0, *range(an_epoch, most, an_epoch), *range(accumulation, most, accumulation)})
    return range(ends[step], ends[step + 1])


def _carried_rows(step: int, rows: int, size: int, seed: int, accumulation: int) -> list[int]:
    """size: rows of a micro-batch; the last one of an epoch may have fewer."""
    an_epoch, found = math.ceil(rows / size), []
    for number in micro_batches(step, an_epoch, accumulation):
        epoch, within = divmod(number, an_epoch)
        found += epoch_order(rows, seed, epoch)[within * size : (within + 1) * size].tolist()
    return found


def share_of(rows: Sequence[int], lengths: np.ndarray, rank: int, world: int) -> list[int]:
    """The rows of a step that one rank computes: dealt out longest first, there and back, so that all get alike.

    lengths: tokens of every row of the data. With one rank: all of them, as they are.
    """
    if world == 1:
        return list(rows)
    order = sorted(rows, key=lambda row: (-int(lengths[row]), row))
    return [row for n, row in enumerate(order) if rank == (n % world if n // world % 2 == 0 else world - 1 - n % world)]
