"""The language of a text: by script, by small words, and what an honest answer is where neither tells."""

from __future__ import annotations

import pytest

from pipeline.dataset.example import Example
from pipeline.dataset.language import language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Give three tips for staying healthy.", "en"),
        ("Ok", "en"),
        ("2 + 2 = ?", "en"),
        ("E = mc²", "en"),
        ("naïve café", "en"),
        ("print('hello')", "en"),
        ("인사해 줘.", "ko"),
        ("다음 코드를 설명해 줘: for i in range(10)", "ko"),
        ("ㅋㅋㅋ", "ko"),
        ("今日は長い一日だった。", "ja"),
        ("ありがとう", "ja"),
        ("让我们去海滩吧", "zh"),
        ("Это короткое предложение.", "cyrl"),
        ("Це коротке речення.", "cyrl"),
        ("هذه جملة قصيرة", "arab"),
        ("यह एक छोटा वाक्य है", "deva"),
        ("Αυτή είναι μια πρόταση", "el"),
        ("זה משפט קצר", "he"),
        ("นี่คือประโยคสั้น", "th"),
        ("Je ne suis pas sûr de ce que je devrais faire avec les enfants.", "fr"),
        ("Il danse tous les jours dans les rues avec ses amis.", "fr"),
        ("Die Europäische Union ist eine Union von Staaten, und sie wird nicht von einer Regierung geführt.", "de"),
        ("Es una ciudad muy grande, pero las calles del centro son más tranquilas.", "es"),
        ("Questo è il libro che ho letto con gli amici della scuola, ma non è una novità.", "it"),
        ("Você não é uma pessoa que gosta muito das coisas mais simples da vida.", "pt"),
        ("", "zxx"),
        (" \n\t", "zxx"),
        ("?!… 😀", "zxx"),
        ("la la la la la la la", "en"),
    ],
)
def test_texts_of_one_language(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Translate this sentence into English for me: Je ne suis pas sûr de ce que je devrais faire.", "en"),
        ("Translate 'Good morning, it is a nice day' to Korean. 좋은 아침", "en"),
        ("What does the word 食べる mean? It means 'to eat', and it is a verb of the second group.", "en"),
        ("How is the name Михаил spelled in English? It can be spelled Mikhail.", "en"),
        ("영어로 번역해 주세요: I am not sure what I should do", "ko"),
    ],
)
def test_a_row_takes_the_language_that_carries_it(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(("hangul", "latin", "language"), [(1, 4, "ko"), (1, 5, "en"), (20, 80, "ko"), (20, 81, "en")])
def test_korean_begins_at_a_fifth_of_the_letters(hangul: int, latin: int, language: str) -> None:
    assert language_of("가" * hangul + " 123 ... " + "a" * latin) == language


def test_a_long_text_is_judged_by_all_its_parts() -> None:
    assert language_of("the answer " * 20_000 + "안녕하세요 " * 60_000) == "ko"
    assert language_of("word " * 1_000_000) == "en"


def test_an_example_carries_the_language_of_the_whole_row() -> None:
    assert Example.of("Say hello in Korean.", "", "안녕하세요", source="s").language == "ko"
    assert Example.of("2+2=?", "", "4", source="s").language == "en"
    assert Example.of("?", "", "!", source="s").language == "zxx"
