"""The form that judges of answers and of rows share."""

from __future__ import annotations

import pytest

from pipeline.api.judge_form import decision, decision_line, filled, mark_of
from pipeline.comparison.verdict import PROMPT_HASH

RATING = decision_line("rating", "[1-5]")


def test_the_prompt_of_make_judge_is_as_it_was() -> None:
    """Verdicts are cached under its hash."""
    assert PROMPT_HASH == "085ce87a506cc601"


def test_texts_stay_as_they_are() -> None:
    text = filled("<a-{mark}>{one}</a-{mark}>{two}", "m1", one="{two} {mark} {", two=r"\1 {one}")
    assert text == r"<a-m1>{two} {mark} {</a-m1>\1 {one}"
    with pytest.raises(KeyError):
        filled("{three}", "m1")


def test_the_mark_depends_on_the_texts() -> None:
    assert len(mark_of(["a", "b"])) == 8
    assert mark_of(["a", "b"]) != mark_of(["ab"])


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Good.\nRating: 4", "4"),
        ("**Rating: 4**", "4"),
        ("Rating: 4\n\n", "4"),
        ("Rating: 4\nand so on\nRating: 4", "4"),
        ("Rating: 4\nRating: 5", None),
        ("Rating: 4\nThank you.", None),
        ("My rating: 4", None),
        ("Rating: 44", None),
        ("", None),
    ],
)
def test_a_decision_stands_on_the_last_line(reply: str, found: str | None) -> None:
    assert decision(reply, RATING) == found
