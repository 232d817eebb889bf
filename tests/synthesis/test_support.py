"""Answers that their passages support, and others."""

from __future__ import annotations

import pytest

from pipeline.synthesis.support import unsupported

HANGUL = (
    "한글은 1443년 세종대왕이 창제하여 1446년에 반포한 문자이다. 처음에는 훈민정음이라고 불렸으며, 자음 17자와 "
    "모음 11자로 "
    "이루어져 있었다. 오늘날에는 자음 14자와 모음 10자를 쓴다. 창제 당시 최만리를 비롯한 집현전 학자들이 반대하였다."
)
TOWER = (
    "The Eiffel Tower was completed on March 31, 1889. It is 330 metres tall and was designed by the company of "
    "Gustave "
    "Eiffel for the World Fair in Paris."
)
FIRST = "한글은 1443년 세종대왕이 창제하여 1446년에 반포한 문자이다."


@pytest.mark.parametrize(
    ("answer", "quote"),
    [
        ("한글은 1443년에 세종대왕이 창제하여 1446년에 반포하였습니다.", FIRST),
        ("한글은 1443년에 창제되었습니다.", "한글은  1443년 세종대왕이\n창제하여"),
        ("한글은 1443년에 창제되었습니다.", "“한글은 1443년 … 창제하여 1446년에 반포한”"),
        ("훈민정음은 자음 열일곱 자와 모음 열한 자로 이루어져 있었습니다.", "자음 17자와 모음 11자로 이루어져 있었다"),
        ("집현전 학자들이 반대했는데, 대표적인 사람은 최만리입니다.", "최만리를 비롯한 집현전 학자들이 반대하였다"),
        ("세종대왕입니다.", FIRST),
        ("1. 자음은 14자를 씁니다.\n2. 모음은 10자를 씁니다.", "자음 14자와 모음 10자를 쓴다"),
    ],
)
def test_supported_in_korean(answer: str, quote: str) -> None:
    assert unsupported(answer, quote, HANGUL, "한글은 언제 누가 만들었나요?", "ko") == []


@pytest.mark.parametrize(
    ("answer", "quote", "missing"),
    [
        ("한글은 1444년에 창제되었습니다.", FIRST, "numbers that are not in the passage: 1444"),
        ("한글은 1443년에 창제되었습니다.", "한글은 세종대왕이 1443년에 만들었다", "the quotation is not in"),
        ("한글은 1443년에 창제되었습니다.", "1443년", "the quotation is too short"),
        ("한글은 1443년에 창제되었습니다.", "", "no quotation of the passage"),
        ("한글은 1443년에 창제되었습니다.", "1446년에 반포한 … 한글은 1443년", "the quotation is not in the passage"),
        ("한글은 UNESCO 세계기록유산입니다.", FIRST, "names or words that are not in the passage: UNESCO"),
        (
            "신숙주와 성삼문이 도왔고, 중국 음운학을 참고했으며, 백성들은 크게 기뻐했습니다.", FIRST,
            "of 9 words only 0 are in the passage; not: 신숙주와, 성삼문이, 도왔고, 중국, 음운학을, 참고했으며 and "
            "3 more",
        ),
    ],
)  # fmt: skip
def test_not_supported_in_korean(answer: str, quote: str, missing: str) -> None:
    found = unsupported(answer, quote, HANGUL, "한글은 언제 만들어졌나요?", "ko")
    assert [text for text in found if text.startswith(missing)], found


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("It was completed on March 31, 1889.", []),
        ("It was finished in 1889, on the 31st of March.", []),
        ("Gustave Eiffel’s company designed it; it is 330 m tall.", []),
        ("It was designed by Stephen Sauvestre.", ["names or words that are not in the passage: Stephen, Sauvestre"]),
        ("It was completed in May 1889.", ["names or words that are not in the passage: May"]),
        ("It is 300 metres tall.", ["numbers that are not in the passage: 300"]),
    ],
)
def test_english(answer: str, missing: list[str]) -> None:
    assert unsupported(answer, "completed on March 31, 1889", TOWER, "When was it completed?", "en") == missing


def test_a_month_in_figures_supports_its_name() -> None:
    passage = "The museum was opened to the public on 2020-05-01 after long works on its roof."
    assert (
        unsupported("It was opened on May 1, 2020.", "opened to the public on 2020-05-01", passage, "When?", "en") == []
    )


def test_answers_in_another_language_than_the_passage() -> None:
    quote, question = "completed on March 31, 1889", "에펠탑은 언제 완공되었나요?"
    assert unsupported("에펠탑은 1889년 3월 31일에 완공되었습니다.", quote, TOWER, question, "ko") == []
    assert unsupported("에펠탑은 1890년에 완공되었습니다.", quote, TOWER, question, "ko") == [
        "numbers that are not in the passage: 1890"
    ]
    assert unsupported("Der Turm ist 330 Meter hoch.", "It is 330 metres tall", TOWER, "Wie hoch ist er?", "de") == []


def test_a_short_passage_needs_no_longer_quotation() -> None:
    assert unsupported("네, 맞아요.", "맞아요", "맞아요!", "맞나요?", "ko") == []
