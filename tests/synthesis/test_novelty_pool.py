"""The growing pool decides as the filter of the data stage does."""

from __future__ import annotations

import random

import numpy as np
import pytest
from rapidfuzz.distance import LCSseq

from pipeline.dataset.select.novelty import filter_novel
from pipeline.dataset.select.rouge_tokens import f_measure
from pipeline.synthesis import novelty_pool
from pipeline.synthesis.novelty_pool import NoveltyPool, rouge_l


def varied(seed: int, count: int, most: int = 14) -> list[list[str]]:
    """Token lists, half of them another one with a few tokens changed; some empty, some long."""
    draw = random.Random(seed)
    words = [f"w{int(draw.paretovariate(0.6))}" for _ in range(60)]
    rows: list[list[str]] = [[]]
    for _ in range(count - 1):
        row = list(draw.choice(rows)) if draw.random() < 0.5 else []
        row = row or [draw.choice(words) for _ in range(draw.randint(1, most))]
        for _ in range(draw.randint(0, 4)):
            row[draw.randrange(len(row))] = draw.choice(words)
        if draw.random() < 0.3:
            row = row[: draw.randint(1, len(row))]
        rows.append(row)
    return rows


def decided(rows: list[list[str]], threshold: float) -> list[tuple[int, float]]:
    """(neighbour, F) of each row, (-1, 0.0) where it is kept, one row after the other."""
    pool, numbers, decisions = NoveltyPool(), [], []
    for number, row in enumerate(rows):
        like = pool.nearest(row, threshold)
        decisions.append((numbers[like.number], like.f) if like else (-1, 0.0))
        if like is None:
            pool.add(row)
            numbers.append(number)
    return decisions


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_same_decisions_as_filter_novel(threshold: float, seed: int) -> None:
    rows = varied(seed, 250, most=14 if seed < 4 else 200)
    expected = filter_novel(rows, threshold)
    pairs = list(zip(expected.neighbour.tolist(), expected.f.tolist(), strict=True))
    assert decided(rows, threshold) == pairs
    assert 0 < sum(n >= 0 for n, _ in pairs) < len(rows) or threshold == 1.0


def test_an_exact_seven_tenths_counts_as_above() -> None:
    """As in rouge_score, where some F of 7/10 compute to 0.7000000000000001."""
    for m in range(1, 40):
        for n in range(1, 40):
            common = round(0.35 * (m + n))
            if 20 * common != 7 * (m + n) or common > min(m, n):
                continue
            one, other = ["a"] * common + ["b"] * (m - common), ["a"] * common + ["c"] * (n - common)
            f = float(f_measure(np.array([common]), np.array([m]), np.array([n]))[0])
            pool = NoveltyPool()
            pool.add(other)
            assert (pool.nearest(one, 0.7) is not None) == (f > 0.7)


def test_rows_can_be_left_out() -> None:
    pool = NoveltyPool()
    first, second = pool.add(list("abcde")), pool.add(list("abcdx"))
    assert pool.nearest(list("abcde"), 0.7) == (first, 1.0)
    like = pool.nearest(list("abcde"), 0.7, without=[first])
    assert like is not None
    assert (like.number, round(like.f, 2)) == (second, 0.8)
    assert pool.nearest(list("abcde"), 0.7, without=[first, second]) is None


def test_more_tokens_than_code_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts with a token beyond them are lists, and are compared with strings."""
    monkeypatch.setattr(novelty_pool, "CODES", 40)
    rows = varied(3, 200)
    assert decided(rows, 0.6) == list(
        zip(*(column.tolist() for column in (lambda d: (d.neighbour, d.f))(filter_novel(rows, 0.6))), strict=True)
    )
    assert LCSseq.similarity("ab", [97, 98]) == 2


def test_rouge_l_of_two() -> None:
    assert rouge_l(list("abc"), list("abd")) == pytest.approx(2 / 3)
    assert rouge_l(list("ab"), list("cd")) == 0.0
    assert rouge_l([], ["a"]) == 0.0
