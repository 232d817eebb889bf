"""The rows of a step dealt to the ranks, so that none waits for another one.

All ranks compute the same deal, and take their part of it. The longest row goes first, each to the rank that has the
least so far (Graham 1969, "Bounds on multiprocessing timing anomalies": longest processing time first). Which rows a
step has does not depend on the number of ranks.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np


def rank_rows(rows: Sequence[int], costs: np.ndarray, rank: int, world: int) -> list[int]:
    """The rows of a step for one rank. With one rank: all rows in their order.

    Args:
        rows: numbers of rows. costs: tokens that each row of the data has to be computed, shape (rows of the data,).
    """
    return list(rows) if world == 1 else deal(rows, costs, world)[rank]


def deal(rows: Sequence[int], costs: np.ndarray, world: int) -> list[list[int]]:
    """The rows of every rank; some have none where there are fewer rows than ranks."""
    dealt: list[list[int]] = [[] for _ in range(world)]
    ranks = [(0, rank) for rank in range(world)]  # a heap: the least tokens first, and among equals the first rank
    for row in sorted(rows, key=lambda row: (-int(costs[row]), row)):
        tokens, rank = heapq.heappop(ranks)
        dealt[rank].append(row)
        heapq.heappush(ranks, (tokens + int(costs[row]), rank))
    return dealt


def imbalance(rows: Sequence[int], costs: np.ndarray, world: int) -> float:
    """By how much the tokens of the rank with the most exceed the mean, as a share of it."""
    sums = [int(sum(costs[row] for row in part)) for part in deal(rows, costs, world)]
    return max(sums) * world / max(1, sum(sums)) - 1
