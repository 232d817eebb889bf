"""Padded micro-batches."""

from __future__ import annotations

import itertools
import math
import random

from pipeline.prompt.batch import micro_rows


def test_micro_rows_keep_every_row_and_the_limit() -> None:
    lengths = [5, 9, 1, 7, 7, 30]
    groups = micro_rows(lengths, 16)
    assert sorted(i for g in groups for i in g) == list(range(6))
    assert all(len(g) * max(lengths[i] for i in g) <= 16 or len(g) == 1 for g in groups)
    assert groups[0] == [5]  # the longest comes first
    assert micro_rows([900, 100, 100, 100], 10_000) == [[0], [1, 2, 3]]  # padding would cost more than another pass
    assert micro_rows([110, 100, 100, 100], 10_000) == [[0, 1, 2, 3]]
    assert micro_rows([], 100) == []


def test_micro_rows_are_the_cheapest_cut() -> None:
    """Against trying every cut of the sorted rows."""
    random_ = random.Random(3)
    for _ in range(20):
        lengths = sorted((random_.randint(1, 300) for _ in range(7)), reverse=True)

        def cost(groups: list[list[int]], lengths: list[int] = lengths) -> float:
            sizes = [len(g) * max(lengths[i] for i in g) for g in groups]
            fits = all(size <= 700 or len(g) == 1 for size, g in zip(sizes, groups, strict=True))
            return sum(35 + size for size in sizes) if fits else math.inf

        cuts = []
        for bits in range(2**6):
            edges = [0, *(i + 1 for i in range(6) if bits >> i & 1), 7]
            cuts.append([list(range(a, b)) for a, b in itertools.pairwise(edges)])
        assert cost(micro_rows(lengths, 700)) == min(map(cost, cuts))
