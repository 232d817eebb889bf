"""Stop texts across the borders of tokens."""

from __future__ import annotations

import itertools
import random

import pytest

from pipeline.serving.server.stop_text import StopText


def passed_on(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    stop = StopText(stops)
    texts = [stop.push(piece) for piece in pieces]
    return [*texts, "" if stop.found else stop.finish()], stop.found


@pytest.mark.parametrize(
    ("stops", "pieces", "texts", "found"),
    [
        ([], ["a", "b"], ["a", "b", ""], None),
        (["END"], ["The E", "N", "D."], ["The ", "", "", ""], "END"),
        (["END"], ["The E", "x"], ["The ", "Ex", ""], None),
        (["END"], ["The EN"], ["The ", "EN"], None),
        (["aab"], ["aa", "ab", "c"], ["", "a", "", ""], "aab"),
        (["\n\n", "\nUser:"], ["a\n", "User", ": b"], ["a", "", "", ""], "\nUser:"),
        (["색입"], ["파란색", "입니다"], ["파란", "", ""], "색입"),
        (["b", "ab"], ["xab"], ["x", ""], "ab"),
    ],
)
def test_the_text_before_the_first_stop_passes(
    stops: list[str], pieces: list[str], texts: list[str], found: str | None
) -> None:
    assert passed_on(stops, pieces) == (texts, found)


def test_it_does_not_depend_on_where_the_text_is_cut() -> None:
    chance = random.Random(0)
    for _ in range(300):
        text = "".join(chance.choices("ab한", k=12))
        stops = ["".join(chance.choices("ab한", k=chance.randint(1, 4))) for _ in range(2)]
        cuts = sorted({0, 12, *chance.sample(range(1, 12), 3)})
        pieces = [text[start:end] for start, end in itertools.pairwise(cuts)]
        texts, found = passed_on(stops, pieces)
        first = min((text.find(stop) for stop in stops if stop in text), default=None)
        # The earliest end may win over the earliest start where stop texts overlap: nothing behind either passes.
        whole = "".join(texts)
        assert (found is None) == (first is None)
        assert text.startswith(whole)
        assert len(whole) == 12 if first is None else all(stop not in whole for stop in stops)
