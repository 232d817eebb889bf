"""Before the vote an answer that did not stop is shown up to a natural end: how it ends would tell the model."""

from __future__ import annotations

import pytest

from pipeline.comparison.answer_pairs import AnswerPair, ModelAnswer, digest_of
from pipeline.comparison.blind import shown_before_the_vote
from pipeline.comparison.page import page
from pipeline.comparison.questions import CompareQuestion


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Seoul.\n### Instruction:\nName a river", "Seoul."),
        ("Seoul is the capital.\nUser: and Japan?", "Seoul is the capital."),
        ("서울입니다.\n질문: 일본은?", "서울입니다."),
        ("It is Seoul. The city is la", "It is Seoul."),
        ("no sentence ends here", "no sentence ends here"),
        ("Thank you so much. Thank you so much. Thank you so much. Thank", "Thank you so much."),
    ],
)
def test_it_ends_where_a_turn_a_loop_or_a_sentence_ends(text: str, shown: str) -> None:
    assert text[: shown_before_the_vote(text, "short")] == shown


def test_it_is_not_much_longer_than_the_other_answer() -> None:
    long = "".join(f"Sentence number {n} tells another thing. " for n in range(99))
    end = shown_before_the_vote(long, "x" * 400)
    assert 700 < end <= 800
    assert long[:end].endswith("thing.")
    assert shown_before_the_vote(" ".join(map(str, range(9_999))), "b") == 300


def test_the_page_marks_what_is_hidden() -> None:
    question = CompareQuestion("q", "set", "chat", "Ask", "", "", "")
    pair = AnswerPair(question, ModelAnswer("Yes.\nUser: <b>more", False), ModelAnswer("Yes.", True))
    html = page("demo", "about", [pair], [], digest_of([pair]), 8)
    assert 'Yes.<span class="rest">\nUser: &lt;b&gt;more</span>' in html
    assert html.count('class="cut"') == 1
