"""Text in a script that its language does not use."""

from __future__ import annotations

import json

import pytest

from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.request import Draft, Reply
from pipeline.synthesis.script_check import ALLOWED, foreign_in, foreign_script, in_own_script
from tests.helpers.teacher_replies import driven

KOREAN = Synthesis(language="ko")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("이 문제는 非常히 어렵습니다.", "非常"),
        ("학생이 ひらがな를 썼다.", "ひらがな"),
        ("這是中文。 한국어로 답합니다.", "這是中文"),
        ("그는 Привет라고 했다.", "Привет"),
        ("漢字", "漢字"),
        ("“這是中文”", "這是中文"),  # all of it is quoted, so it is not a quotation in Korean
        ("대한민국(大韓民國)의 수도는 서울이다.", ""),
        ("경복궁（景福宮）과 『논어(論語)』", ""),
        ("그는 “你好”라고 인사했다.", ""),
        ("`print('漢字')`를 실행하면 된다.", ""),
        ("```python\nprint('漢字')\n```\n위 코드를 보세요.", ""),
        ("각 α와 β의 합은 π이다. 3 ㎡, Ⅳ, ℃, ∑", ""),
        ("회원 김〇〇 님・이〇〇 님", ""),
        ("Python과 API를 씁니다. café", ""),
    ],
)
def test_korean(text: str, found: str) -> None:
    assert foreign_script(text, "ko") == found


def test_other_languages() -> None:
    assert foreign_script("日本語のテキスト", "ja") == ""
    assert foreign_script("日本語のテキスト", "zh") == "のテキスト"
    assert foreign_script("Он сказал да.", "ru") == ""
    assert foreign_script("He said да to it.", "en") == "да"
    assert foreign_script("한국어", "en") == "한국어"
    assert foreign_script("나는 漢字", "xx") == "", "an unknown language is not checked"
    assert {"ko", "en", "ja", "zh"} <= ALLOWED.keys()


def test_rows_about_other_languages_may_use_their_script() -> None:
    japanese = Draft("다음 문장을 일본어로 옮기세요.", "안녕하세요", "こんにちは")
    assert foreign_in(japanese, "ko") == ("", "")
    assert foreign_in(Draft("다음 문장을 영어로 번역하세요.", "你好", "Hello"), "ko") == ("", "")
    assert foreign_in(Draft("다음 한자의 음을 쓰세요: 天地", "", "천지"), "ko") == ("", "")
    assert foreign_in(Draft("Write the Greek alphabet.", "", "άλφα βήτα"), "en") == ("", "")
    assert foreign_in(Draft("Übersetze den Satz ins Japanische.", "Hallo", "こんにちは"), "de") == ("", "")
    assert foreign_in(Draft("일본어 인사말을 알려 주세요.", "", "Привет입니다"), "ko") == ("output", "Привет")
    assert foreign_in(Draft("중국의 수도를 알려 주세요.", "", "중국의 수도는 北京입니다."), "ko") == ("output", "北京")


FOREIGN = Draft("건강에 좋은 습관을 말해 주세요.", "", "每日 운동하세요.")


def test_it_is_asked_again_once() -> None:
    good = json.dumps({"instruction": FOREIGN.instruction, "input": "", "output": "매일 운동하세요."})
    [row], [request] = driven(in_own_script(KOREAN, FOREIGN), [good])  # type: ignore[arg-type]
    assert row.output == "매일 운동하세요."
    assert not row.rejected
    assert row.requests == (request.key,)
    assert request.draw == 1
    assert "每日" in request.messages[0][1]
    assert request.schema is not None


@pytest.mark.parametrize(
    ("reply", "rule"),
    [
        (json.dumps({"instruction": "건강에 좋은 습관은?", "input": "", "output": "每日 운동"}), "wrong-script"),
        ("I would rather not.", "wrong-script"),
        (Reply("", failure="the prompt is too long"), "refused-request"),
    ],
)
def test_then_it_is_rejected(reply: Reply | str, rule: str) -> None:
    [row], requests = driven(in_own_script(KOREAN, FOREIGN), [reply])  # type: ignore[arg-type]
    assert len(requests) == 1
    assert row.rejected
    assert row.rejected[0] == rule
    if rule == "wrong-script":
        assert "每日" in row.rejected[1]


def test_nothing_is_asked_where_nothing_is_wrong() -> None:
    own = Draft("건강에 좋은 습관을 말해 주세요.", "", "매일 운동하세요.")
    assert driven(in_own_script(KOREAN, own), []) == ([own], [])  # type: ignore[arg-type]
    kept = Synthesis(language="ko", keep_scripts=False)
    assert driven(in_own_script(kept, FOREIGN), []) == ([FOREIGN], [])  # type: ignore[arg-type]
