"""Translations that are still in the language of their source."""

from __future__ import annotations

import pytest

from pipeline.synthesis.untranslated import in_wrong_language, is_untranslated


@pytest.mark.parametrize(
    ("source", "translation", "languages", "is_prose", "untranslated"),
    [
        ("Explain how a bird can fly.", "Explain how a bird can fly.", ("en", "ko"), True, True),
        ("Explain how a bird can fly.", "새가 나는 원리를 설명하세요.", ("en", "ko"), True, False),
        ("Twitter, Instagram, Telegram", "Twitter, Instagram, Telegram", ("en", "ko"), False, False),
        ("The cat was sitting on the mat.", "The cat was sitting on the mat.", ("en", "ko"), False, True),
        ("print(sum(range(10)))", "print(sum(range(10)))", ("en", "ko"), False, False),
        ("https://example.com/a/long/address", "https://example.com/a/long/address", ("en", "ko"), False, False),
        ("A cat sat on the mat.", "A cat sat on the mat.", ("en", "ko"), False, True),
        ("red, green, blue, yellow", "red, green, blue, yellow", ("en", "ko"), False, True),
        ("Anna Smith, Bob Jones", "Anna Smith, Bob Jones", ("en", "de"), False, False),
        ("apple", "apple", ("en", "ko"), False, False),
        ("새가 어떻게 나는지 설명하세요.", "새가 어떻게 나는지 설명하세요.", ("ko", "en"), True, True),
        ("새가 어떻게 나는지 설명하세요.", "Explain how a bird flies.", ("ko", "en"), True, False),
        ("Name three wild animals.", "Nenne drei wilde Tiere.", ("en", "de"), True, False),
        ("Name three wild animals.", "Name three wild animals.", ("en", "de"), True, True),
        ("What is it and why does it not work?", "What is it, and why does it never work?", ("en", "de"), True, True),
        (
            "What is it and why?",
            "Was ist es, und warum ist es nicht so wie bei der anderen?",
            ("en", "de"),
            True,
            False,
        ),
        ("Explain how a bird can fly.", "鳥がどのように飛ぶか説明してください。", ("en", "ja"), True, False),
        ("Explain how a bird can fly.", "Объясните, как летает птица.", ("en", "ru"), True, False),
        ("Explain how a bird can fly.", "Explain how the bird can fly", ("en", "ru"), True, True),
    ],
)
def test_untranslated(
    source: str, translation: str, languages: tuple[str, str], is_prose: bool, untranslated: bool
) -> None:
    assert is_untranslated(source, translation, *languages, is_prose) is untranslated


@pytest.mark.parametrize(
    ("answer", "language", "is_wrong"),
    [
        ("Корова стоит на лугу и спокойно жуёт траву.", "ru", False),
        ("The cow stands in the meadow and it is chewing the grass.", "ru", True),
        ("The cow stands in the meadow and it is chewing the grass.", "ko", True),
        ("소가 풀밭에 서서 조용히 풀을 뜯고 있습니다.", "ko", False),
        ("Mae y fuwch yn sefyll yn y ddôl ac yn cnoi ei chil.", "cy", False),  # not known
    ],
)
def test_in_wrong_language(answer: str, language: str, is_wrong: bool) -> None:
    assert bool(in_wrong_language("?", answer, language)) is is_wrong
