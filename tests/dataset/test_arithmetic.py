"""Arithmetic: expressions are computed exactly, and only wrong claims are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset.clean.calculator import compute
from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.rule import Cleaner
from tests.helpers.rules import look, mended, rejects, row

DATA = Path(__file__).parents[2] / "data"
STANDARD = Cleaner("standard", {})


# --- arithmetic

VALUES: list[tuple[str, str | None]] = [
    ("3 + 4 * 2", "11"),
    ("(3 + 4) * 2", "14"),
    ("2^3^2", "512"),
    ("2 ** 3", "8"),
    ("8 / 4 / 2", "1"),
    ("-2 + 3", "1"),
    ("-2^2", "-4"),
    ("3 * -2", "-6"),
    ("2^-1", "1/2"),
    ("1,234.5 + 0.5", "1235"),
    ("20% * 50", "10"),
    ("4 × 5 ÷ 2", "10"),
    ("3 x 4", "12"),
    ("4x3", "12"),
    ("0.1 + 0.2", "3/10"),
    ("3x + 1", None),
    ("3x-1", None),
    ("1 / 0", None),
    ("0^-1", None),
    ("9^99999", None),
    ("9^64^9", None),
    ("2(3+4)", None),
    ("1 2 + 3", None),
    ("50 + 20%", None),
    ("7 % 3", None),
    ("3 + + 4", None),
    ("(3 + 4", None),
    ("3 + 4)", None),
    ("()", None),
    ("", None),
    ("3 +", None),
    ("1.2.3 + 1", None),
    ("__class__", None),
    ("(" * 50 + "1" + ")" * 50, None),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_compute(text: str, value: str | None) -> None:
    found = compute(text)
    assert (None if found is None else str(found.value)) == value


@pytest.mark.parametrize(
    "texts",
    [
        row(output="3 + 4 = 8"),
        row(output="So 3 + 4 * 2 = 14 in all."),
        row(output="The total is $2.25 + $1.13 + $1.80 = $4.45."),
        row(output="First 2 * 3 = 6.\nThen 6 - 1 = 4."),
        row(output="1. 12 x 12 = 140"),
        row(output="2 * 37 = 2 x 37 = 75"),
        row(output="20% of 50 is 10, and 20% of 60 = 13"),
        row(output="1,000 + 1 = 1,002"),
        row(output="10 / 4 = 2.6"),
        row(output="5 plus 4 equals 10"),
        row(output="3 더하기 4는 8입니다."),
        row(output="so .5 * 4 = 3"),
        row(output="10 - 4 = 7 apples"),
        row(output="$10 - $4 = $7"),
        row("What is 12 * 7?", "", "85"),
        row("Calculate 8 * (25 + 7)", "", "216"),
        row("Compute the expression.", "2^3 + 3^2", "The answer is 11."),
        row("12 곱하기 7은 얼마인가요?", "", "85입니다."),
        row("15 + 27을 계산하세요.", "", "43"),
    ],
)
def test_wrong_arithmetic(texts: Texts) -> None:
    assert rejects("wrong-arithmetic", texts)


@pytest.mark.parametrize(
    "texts",
    [
        row(output="3 + 4 = 7, 1/3 = 0.33, 2 / 3 = 0.67, 2/3 = 0.66 and 10 / 3 = 3"),
        row(output="5/20 = 25% and 0.25 * 100 = 25%"),
        row(output="2x + 4 = 20, 3x - 1 = 4, x - 3 + 5 = 1, 5y + 3 = 4"),
        row(output="3 + 4 = 7 + 1 = 8 and 6 * 7 = 42."),
        row(output="f(2) = 3 * 2 + 1 = 7 and log(10) + 1 = 2 and √16 + 9 = 13"),
        row(output="17 / 5 = 3 remainder 2; 3 + 9 = 2 (mod 10)"),
        row(output="90-100 = 4 points, 1-3 = 5 stars; 12/05 = 5; 1.2.3 + 1 = 4"),
        row(output="for i in range(3): x = 2 + 2 == 5; y[3] + 4 = 9"),
        row(output="3 + 4 = 8 is wrong."),
        row("Is the equation right?", "3 + 4 = 8", "It says 3 + 4 = 8, so no."),
        row("Add in binary.", "", "1 + 1 = 10"),
        row(output="0.33 * 3 = 1, 3.14 * 25 = 78.5, 2.67 x 3 = 8"),
        row(output="1.5 million = 1,500,000 and 3 + 4 = 7 million"),
        row(output="5 * 60 = 1 hour more"),
        row("What is 12 * 7?", "", "84"),
        row("What is 10 / 3?", "", "3.33"),
        row("What is 3 + 4 in Roman numerals?", "", "7"),
        row("Convert to postfix notation.", "3 + 4", "34"),
        row("Simplify the fraction.", "4 / 8", "0"),
        row("12 곱하기 7은 얼마인가요?", "", "84입니다."),
        row("Which date is it?", "2020-10-05", "5"),
        row(output="The fee adds .20*20 = $4.00 to her bill, and 4 * .25 = 1."),
        row(output="She has $2.50 - $2.24 = 26 cents left, and 4 x 25 = 1 dollar."),
        row(output="The sun sets at 6:00+48=6:48 PM."),
        row(output="That is 10/100%*5=.5 liters and 5 + 20 = 25%."),
        row(output="He runs 3 * 20 = 1 hour and waits 2 * 24 = 2 days; 0.5 * 2 = 100 cm."),
        row(output="16 - 3 = <<16-3=13>>13 eggs, <<16-3=12>>"),
        row("What is 2+2?", "", "Four, which is 4."),
    ],
)
def test_right_or_other_arithmetic(texts: Texts) -> None:
    assert look("wrong-arithmetic", texts) is None


def test_calculator_marks_are_taken_out() -> None:
    text = "He has 16 - 3 = <<16-3=13>>13 eggs, so $<<13*.5=6.50>>6.50 and S + <<+30+46=76>>.\n#### 13"
    assert mended("calculator-marks", row(output=text)).output == (
        "He has 16 - 3 = 13 eggs, so $6.50 and S + 76.\n#### 13"
    )
    assert look("calculator-marks", row(output="cout << a=3 >> b; <<EOF and x << 3 >> 1")) is None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (
            "Give me the code.",
            "I'm sorry, I can't provide the exact code. However, I can show a sketch: " + "x = 1; " * 40,
        ),
        (
            "Draw it.",
            "Unfortunately, I cannot create images. Here is a list instead:\n- a\n- b\n" + "It goes on. " * 30,
        ),
        ("Are you a boy?", "As an AI language model, I do not have a gender."),
    ],
)
def test_answers_that_help_or_are_about_the_model_are_no_refusals(asked: str, answer: str) -> None:
    assert look("refusal", row(asked, "", answer)) is None
    assert rejects("refusal", row("Sing it.", "", "As an AI language model, I do not have a voice."))
