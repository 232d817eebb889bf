"""Numbers by value, in digits and in words."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pipeline.synthesis.quantities import korean_value, quantities, values, word_values


@pytest.mark.parametrize(
    ("text", "value"),
    [("3만 5천", 35_000), ("1억 2,000만", 120_000_000), ("이백오십만", 2_500_000), ("천", 1000), ("만", 10_000),
     ("십이", 12), ("2.5만", 25_000), ("1조 3억", 1_000_300_000_000), ("육백", 600)],
)  # fmt: skip
def test_korean_value(text: str, value: int) -> None:
    assert korean_value(text) == value


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("7", [{7}]),
        ("1,000", [{1000}, {1}, {1, 0}]),
        ("1.234,5", [{1234.5}, {1, 234, 5}]),
        ("3.50", [{3.5}, {3, 50}]),
        ("05.03.2021", [{5, 3, 2021}]),
        ("5 million", [{5_000_000}, {5}]),
        ("3만 5천", [{35_000}, {3, 5}, {3}]),
        ("007", [{7}]),
    ],
)
def test_readings(text: str, readings: list[set[float]]) -> None:
    (quantity,) = quantities(text)
    assert quantity.text == text
    assert list(quantity.readings) == [frozenset(Decimal(str(value)) for value in reading) for reading in readings]


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("twenty-five people", "en", {20, 5, 25}),
        ("two hundred and five", "en", {2, 5, 205}),
        ("three million dollars in March", "en", {3, 3_000_000}),
        ("a dozen, half of them", "en", {1, 12, 2}),
        ("열두 명과 스물다섯 마리", "ko", {12, 25}),
        ("천 원과 이백오십만 달러", "ko", {1000, 2_500_000}),
        ("두 사람, 둘째 날", "ko", {2}),
        ("세종대왕은 두부를 열심히", "ko", set()),
        ("이 문장은 제일 좋다", "ko", set()),
    ],
)
def test_number_words(text: str, language: str, found: set[int]) -> None:
    assert word_values(text, language) == found


def test_other_languages_may_have_any_small_number_as_a_word() -> None:
    assert values("zwölf Katzen und 40 Hunde", "de") >= {12, 40}
    assert Decimal(25) not in values("fünfundzwanzig", "de")
