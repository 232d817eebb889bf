"""Texts that speak of a passage that their readers do not have."""

from __future__ import annotations

import pytest

from pipeline.synthesis.standalone import mention


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("위 글에서 말하는 한글의 특징은 무엇인가요?", "위 글에서"),
        ("이 글의 주제는?", "이 글의"),
        ("지문에 따르면 누가 만들었나요?", "지문"),
        ("저자는 무엇을 주장하나요?", "저자는"),
        ("본문에서 언급된 도시는 어디인가요?", "본문에서"),
        ("다음 글을 읽고 답하세요.", "다음 글을"),
        ("이 자료는 무엇을 보여 주나요?", "이 자료는"),
        ("글에 나온 인물은 누구인가요?", "글에 나온"),
        ("What does the passage say about bees?", "the passage"),
        ("According to the text, why do bees dance?", "the text"),
        ("What is the main idea of this article?", "this article"),
        ("According to the author, why?", "According to the author"),
        ("Worum geht es laut diesem Text?", "laut diesem Text"),
    ],
)
def test_mentions(text: str, words: str) -> None:
    assert mention(text) == words


@pytest.mark.parametrize(
    "text",
    [
        "이 글자는 언제 만들어졌나요?", "해리 포터의 저자는 누구인가요?", "이글루는 어떻게 만드나요?",
        "다음 중 무엇이 맞나요?",
        "한글은 언제 만들어졌나요?", "일본문화의 특징은 무엇인가요?", "구글에 따르면 무엇이 문제인가요?",
        "How tall is the Eiffel Tower?",
        "What is the Document Object Model?", "Who is the author of Hamlet?", "Why do bees dance?",
    ],
)  # fmt: skip
def test_texts_that_stand_alone(text: str) -> None:
    assert mention(text) == ""
