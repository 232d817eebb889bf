"""How the rows of a step are dealt to ranks."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.training.rank_rows import deal, imbalance, rank_rows


@pytest.mark.parametrize("world", [2, 3, 8])
def test_every_row_is_dealt_once(world: int) -> None:
    random_ = np.random.default_rng(0)
    costs = random_.integers(1, 500, 100)
    rows = random_.permutation(100)[:37].tolist()
    shares = [rank_rows(rows, costs, rank, world) for rank in range(world)]
    assert shares == deal(rows, costs, world)
    assert sorted(row for share in shares for row in share) == sorted(rows)
    sums = [int(costs[share].sum()) for share in shares]
    assert max(sums) - min(sums) <= costs.max()


def test_one_rank_has_the_rows_in_their_order() -> None:
    assert rank_rows([5, 2, 9], np.arange(10), 0, 1) == [5, 2, 9]


def test_the_longest_goes_to_the_rank_with_the_least() -> None:
    """8 | 7, then 6 to the second, 5 to the first, and so on: 8 + 5 + 3 and 7 + 6 + 2, the first of equals."""
    costs = np.array([8, 7, 6, 5, 3, 2])
    assert deal(range(6), costs, 2) == [[0, 3, 4], [1, 2, 5]]
    assert imbalance(range(6), costs, 2) == pytest.approx(16 / 15.5 - 1)


def test_ranks_without_rows() -> None:
    assert deal([4, 2], np.full(9, 7), 4) == [[2], [4], [], []]
    assert deal([], np.full(9, 7), 2) == [[], []]
