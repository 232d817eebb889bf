"""Root verbs and their objects, on sentences written for it; the parsers are extras, so each language may skip."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from pipeline.data_report import english, verbs
from pipeline.data_report.korean import first_sentence
from pipeline.run.errors import UserError

ENGLISH = """
Write a short poem about the sea. | write poem
Please write a short poem about the sea. | write poem
Could you summarise the following article? | summarise article
Rewrite the given sentence in the passive voice. | rewrite sentence
Re-write the following sentence so that it is polite. | rewrite sentence
Generate a list of ten names for a cat. | generate list
Give three tips for staying healthy. | give tip
Explain the difference between a virus and a bacterium. | explain difference
Classify the review as positive or negative. | classify review
Convert the temperature from Celsius to Fahrenheit. | convert temperature
Given two numbers, find the larger number. | find number
Translate the sentence into Korean. | translate sentence
Create a table that shows the planets and their moons. | create table
Identify the verbs in the text. | identify verb
Design a logo for a bakery. | design logo
List five countries in Africa. | list country
List 5 different fruits | list fruit
Name three types of renewable energy. | name type
Suggest a title for the story. | suggest title
Describe the taste of a lemon. | describe taste
Correct the spelling mistakes in this letter. | correct mistake
Calculate the area of a circle with radius 5. | calculate area
Provide an example of a metaphor. Keep it short. | provide example
Identify and explain the main idea of the passage. | identify idea
Compose a letter to your neighbour./Be friendly. | compose letter
Tell me a joke about programmers. | tell joke
Edit the paragraph for clarity. | edit paragraph
Find the shortest route from Paris to Rome. | find route
Remove the punctuation from the text. | remove punctuation
Compare the two paintings below. | compare painting
Make a shopping list for a picnic. | make list
What is the capital of France? | -
Why is the sky blue? | -
How does a bicycle stay upright? | stay
Explain how rainbows form. | explain
Describe it. | describe
You are a pirate. Write a letter. | -
"""

KOREAN = """
다음 문장을 영어로 번역하세요. | 번역하다 문장
파이썬으로 피보나치 함수를 작성해 주세요. | 작성하다 함수
이 글을 세 문장으로 요약해줘. | 요약하다 글
건강한 식습관에 대한 글을 써 줘. | 쓰다 글
아래 문장의 오류를 고쳐 써 주세요. | 고치다 오류
이메일을 정중하게 바꿔 써 줘. | 바꾸다 이메일
다음 단어들을 이용해 문장을 만들어 보세요. | 만들다 문장
고양이에 대한 시를 하나 써라. | 쓰다 시
주어진 표에서 평균을 계산하시오. | 계산하다 평균
이 코드를 설명해 주실 수 있나요? | 설명하다 코드
친구에게 보낼 이메일을 작성해 주시기 바랍니다. | 작성하다 이메일
이 주제로 에세이를 써 주시면 감사하겠습니다. | 쓰다 에세이
이 영화의 줄거리를 간단하게 설명해 주시면 좋겠습니다. | 설명하다 줄거리
비타민 C의 효능을 알려줘 | 알리다 효능
여행 일정을 짜 줄래? | 짜다 일정
두 제품을 비교해 보고 장단점을 정리해 주세요. | 정리하다 장단점
문장에서 틀린 맞춤법을 찾아 고쳐라. | 고치다 맞춤법
이름을 지어 주세요. | 짓다 이름
리뷰를 긍정 또는 부정으로 분류하세요. | 분류하다 리뷰
회의록 작성해줘 | 작성하다 회의록
사용자가 입력한 숫자를 더하는 프로그램을 구현하라. | 구현하다 프로그램
소수를 찾는 파이썬 함수를 만드세요. | 만들다 함수
문단을 읽고 제목을 붙이시오. | 붙이다 제목
스트레스를 줄이는 방법 세 가지를 알려 주세요. | 알리다 방법
"사과"를 영어로 번역해줘. | 번역하다 사과
주어진 말의 초성만 적어 주세요. | 적다 초성
다음 글을 요약 | 요약하다 글
다음 문장의 문법 오류를 바로잡을 것. | 바로잡다 오류
목록을 만들어라. 세 개만 적어라. | 만들다 목록
수의 규칙을 찾아 이유를 말해 주세요: 2, 6, 18 | 말하다 이유
함수 unique(items)를 작성하세요. | 작성하다 unique
선물을 골라 주세요 | 고르다 선물
번역 부탁드립니다. | 번역하다
이 문장의 번역을 해 주세요. | 번역하다
다음 글을 읽고 질문에 답하세요. | 답하다 질문
대한민국의 수도는 어디인가요? | -
광합성이란 무엇인가? | -
왜 하늘은 파란가요? | 파랗다 하늘
평일 데이트 장소 좀 추천해줘 | 추천하다 장소
놀이터에 친구가 없어 | 없다 친구
이번 주말에 아파트에서 살고 싶다 | 살다 아파트
오늘 연락 왔어 | 오다 연락
스키 강습을 받아야 될까? | 받다 강습
뿌리 염색 다시 해야겠다 | 염색하다 뿌리
이 영화의 줄거리가 너무 좋다 | 좋다 줄거리
좋아하는 사람이 생긴 것 같아 | 생기다 사람
당신은 요리사입니다. 메뉴를 추천해 주세요. | -
"""


def cases(table: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Sentences (a slash is a line break), and the verb and object that each should give."""
    lines = [line.split(" | ") for line in table.strip().split("\n")]
    wanted = [(answer.replace("-", "") + " ").split(" ") for _, answer in lines]
    return [text.replace("/", "\n") for text, _ in lines], [(words[0], words[1]) for words in wanted]


def wrong(texts: list[str], found: list[tuple[str, str]], wanted: list[tuple[str, str]]) -> list[Any]:
    return [(t, f, w) for t, f, w in zip(texts, found, wanted, strict=True) if f != w]


@pytest.mark.report
def test_english_sentences() -> None:
    pytest.importorskip("spacy", reason="extra `report`")
    if not english.folder().is_dir():
        pytest.skip("the grammar is not in the cache: python -m scripts.fetch_grammar")
    texts, wanted = cases(ENGLISH)
    assert wrong(texts, english.English().pairs(texts), wanted) == []


@pytest.fixture(scope="module")
def korean() -> Any:
    pytest.importorskip("kiwipiepy", reason="extra `report`")
    from pipeline.data_report.korean import Korean

    return Korean()


@pytest.mark.report
def test_korean_sentences(korean: Any) -> None:
    texts, wanted = cases(KOREAN)
    assert wrong(texts, korean.pairs(texts), wanted) == []


def test_no_text_is_too_odd_to_parse(korean: Any) -> None:
    odd = ["", " ", "?", "\x00", "\u202e\u202d", "하", "를", "1234", "((((", "a" * 10_000, "해 주세요", "\ud800 써"]
    assert len(korean.pairs(odd)) == len(odd)


def test_first_sentences() -> None:
    assert english.first_sentence("Add 3.5 and 2. Then stop.") == "Add 3.5 and 2."
    assert english.first_sentence("  Sort the list\n1, 2, 3") == "Sort the list"
    assert english.first_sentence("Re-write it") == "Rewrite it"
    assert first_sentence("합을 3.5배로 구하세요. 그리고 적으세요.") == "합을 3.5배로 구하세요."
    assert first_sentence("시각을 9:00 꼴로 적으세요: 아홉 시") == "시각을 9:00 꼴로 적으세요:"
    assert len(first_sentence("가" * 1000)) == 300


def test_the_most_common_come_first_and_ties_go_by_name() -> None:
    pairs = [("write", "poem")] * 3 + [("write", "story")] * 3 + [("give", "tip")] * 2 + [("be", ""), ("", "")]
    found = verbs.counted(pairs)
    assert (found["with_verb"], found["with_object"]) == (9, 8)
    assert [v["verb"] for v in found["verbs"]] == ["write", "give"]
    assert found["verbs"][0]["objects"] == [{"object": "poem", "rows": 3}, {"object": "story", "rows": 3}]


def test_at_most_twenty_verbs_with_four_objects() -> None:
    pairs = [(f"verb{v:02}", f"object{o}") for v in range(30) for o in range(9) for _ in range(40 - v)]
    found = verbs.counted(pairs)["verbs"]
    assert [v["verb"] for v in found] == [f"verb{v:02}" for v in range(20)]
    assert all(len(v["objects"]) == 4 and v["rows"] > sum(o["rows"] for o in v["objects"]) for v in found)


def test_a_missing_parser_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = verbs.count({"en": ["Write a poem."], "fr": ["Bonjour"]}, {"en": 1})
    assert list(found) == ["en"]
    assert "spacy is not installed" in found["en"]["missing"]
    assert verbs.INSTALL in found["en"]["missing"]
    assert verbs.parsers() == {}


def test_an_index_that_cannot_be_reached_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(language: str, texts: Any) -> Any:
        raise UserError("pip could not download it", fix="check the network")

    monkeypatch.setattr(verbs, "_pairs", fails)
    found = verbs.count({"en": ["Write a poem."], "ko": ["시를 써라"]}, {"en": 7, "ko": 1})
    assert found["en"]["rows"] == 7
    assert "check the network" in found["ko"]["missing"]
