"""What a translation must leave as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.synthesis.intact import differences

SEEDS = sorted((Path(__file__).parents[2] / "data").glob("seed_tasks.*.jsonl"))


@pytest.mark.parametrize(
    ("source", "translation"),
    [
        ("Pay 1,000 won for it.", "천 원을 내세요."),
        ("Pay 10,000 won.", "만 원을 내세요."),
        ("Pay 1,000 won.", "1000원을 내세요."),
        ("Over 1 million people", "100만 명 넘는 사람"),
        ("2.5 billion dollars", "25억 달러"),
        ("It costs $1.5M.", "150만 달러입니다."),
        ("List 5 fruits.", "과일 다섯 가지를 나열하세요."),
        ("2 people and 12 dogs", "두 사람과 개 열두 마리"),
        ("the 19th century", "19세기"),
        ("at 10:30 pm", "오후 10시 30분에"),
        ("20% of 45", "45의 20퍼센트"),
        ("1/2 of the cake", "케이크의 절반"),
        ("1, 1, 2, 3, 5, 8", "1, 1, 2, 3, 5, 8"),
        ("May 5, 2021", "2021년 5월 5일"),
        ("Dear {name}, see https://a.com/x?y=1.", "{name}님, https://a.com/x?y=1을 보세요."),
        ("Write to bob@a.com, please.", "bob@a.com으로 보내 주세요."),
        ("The ___ sat on the ____.", "___이 ____에 앉았다."),
        ("Paris is the [MASK] of France.", "파리는 프랑스의 [MASK]이다."),
        ("Print `x + 1` now", "이제 `x + 1`을 출력하세요"),
        ("Fix:\n```python\nprint('a')\n```", "고치세요:\n```python\nprint('a')\n```"),
        ('<p class="a" title="Hello">Hi</p>', '<p class="a" title="안녕">안녕</p>'),
        ("def add(a, b):\n    return a + b  # the sum", "def add(a, b):\n    return a + b  # 합"),
        ("Read data.csv", "data.csv를 읽으세요"),
        ("What does 你好 mean?", "你好는 무슨 뜻인가요?"),
        ("John lives in Paris.", "존은 파리에 산다."),
        ("Pick one: Twitter, Instagram", "하나를 고르세요: 트위터, 인스타그램"),
        ("Return the book (soon);", "책을 돌려주세요(곧);"),
    ],
)
def test_intact_in_korean(source: str, translation: str) -> None:
    assert differences(source, translation, "en", "ko") == []


@pytest.mark.parametrize(
    ("source", "translation", "lost"),
    [
        ("Add 42 and 7.", "43과 7을 더하세요.", "number missing: 42 (new: 43)"),
        ("Pay 1,000 won.", "100원을 내세요.", "number missing: 1,000 (new: 100)"),
        ("5 million people", "500명", "number missing: 5 million (new: 500)"),
        ("1, 1, 2, 3, 5", "1, 2, 1, 3, 5", "numbers changed: 1 1 2 3 5"),
        ("Dear {name}", "이름님", "placeholder missing: {name}"),
        ("Dear {name}", "{이름}님", "placeholder missing: {name}"),
        ("Dear you", "{name}님", "placeholder added: {name}"),
        ("The %s is", "그것은", "placeholder missing: %s"),
        ("See https://a.com/x.", "https://a.com/y를 보세요.", "address missing: https://a.com/x"),
        ("Write to bob@a.com", "bob에게 쓰세요", "e-mail address missing: bob@a.com"),
        ("a ___ b ___", "ㄱ ___ ㄴ", "blanks (___): 2, now 1"),
        ("the [MASK]", "그 [마스크]", "placeholder missing: [MASK]"),
        ("Use `len`", "길이를 쓰세요", "code missing: `len`"),
        ("```\nx = 1\n```", "```\ny = 1\n```", "code block changed: x = 1"),
        ("<b>Hi</b>", "안녕", "tag missing: <b"),
        ("def add(a, b):\n    return a", "def 더하기(a, b):\n    return a", "name in code missing: add"),
        ("Read data.csv", "데이터를 읽으세요", "file name missing: data.csv"),
        ("What does 你好 mean?", "니하오는 무슨 뜻인가요?", "foreign words missing: 你好"),
        (r"Compute $\frac{a}{b}$", "a를 b로 나누세요", "command missing: \\frac"),
    ],
)
def test_differences_in_korean(source: str, translation: str, lost: str) -> None:
    assert lost in differences(source, translation, "en", "ko")


@pytest.mark.parametrize(
    ("source", "translation", "languages"),
    [
        ("3만 5천 원입니다.", "It is 35,000 won.", ("ko", "en")),
        ("1억 2천만 원", "120 million won", ("ko", "en")),
        ("12월 25일에 3명이 왔다.", "On December 25, three people came.", ("ko", "en")),
        ("1,234.5 km in 2 days", "1.234,5 km in zwei Tagen", ("en", "de")),
        ("3.5 cm", "3,5 cm", ("en", "de")),
        ("5 million", "5 millions", ("en", "fr")),
    ],
)
def test_intact_in_other_languages(source: str, translation: str, languages: tuple[str, str]) -> None:
    assert differences(source, translation, *languages) == []


def test_a_number_word_of_a_language_without_a_table_is_a_difference_from_13_on() -> None:
    assert differences("12 cats", "zwölf Katzen", "en", "de") == []
    assert differences("25 cats", "fünfundzwanzig Katzen", "en", "de") == ["number missing: 25"]


def test_differences_are_few_and_short() -> None:
    source = "\n".join(f"https://a.com/{'x' * 200}{number}" for number in range(30))
    lost = differences(source, "", "en", "ko")
    assert len(lost) == 8
    assert max(map(len, lost)) < 120


def test_every_seed_task_is_intact_to_itself() -> None:
    rows = [json.loads(line) for path in SEEDS for line in path.read_text().splitlines()]
    texts = [row[name] for row in rows for name in ("instruction", "input", "output")]
    assert len(texts) > 100
    assert [text for text in texts if differences(text, text, "en", "de")] == []
