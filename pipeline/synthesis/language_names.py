"""Names of languages in English and in Korean, for prompts. Codes: ISO 639."""

from __future__ import annotations

from typing import Literal

Wording = Literal["en", "ko"]

NAMES: dict[str, tuple[str, str]] = {
    "af": ("Afrikaans", "아프리칸스어"), "ar": ("Arabic", "아랍어"), "az": ("Azerbaijani", "아제르바이잔어"),
    "be": ("Belarusian", "벨라루스어"), "bg": ("Bulgarian", "불가리아어"), "bn": ("Bengali", "벵골어"),
    "ca": ("Catalan", "카탈루냐어"), "cs": ("Czech", "체코어"), "cy": ("Welsh", "웨일스어"),
    "da": ("Danish", "덴마크어"), "de": ("German", "독일어"), "el": ("Greek", "그리스어"), "en": ("English", "영어"),
    "es": ("Spanish", "스페인어"), "et": ("Estonian", "에스토니아어"), "eu": ("Basque", "바스크어"),
    "fa": ("Persian", "페르시아어"), "fi": ("Finnish", "핀란드어"), "fr": ("French", "프랑스어"),
    "ga": ("Irish", "아일랜드어"), "gl": ("Galician", "갈리시아어"), "gu": ("Gujarati", "구자라트어"),
    "he": ("Hebrew", "히브리어"), "hi": ("Hindi", "힌디어"), "hr": ("Croatian", "크로아티아어"),
    "hu": ("Hungarian", "헝가리어"), "hy": ("Armenian", "아르메니아어"), "id": ("Indonesian", "인도네시아어"),
    "is": ("Icelandic", "아이슬란드어"), "it": ("Italian", "이탈리아어"), "ja": ("Japanese", "일본어"),
    "ka": ("Georgian", "조지아어"), "kk": ("Kazakh", "카자흐어"), "km": ("Khmer", "크메르어"),
    "kn": ("Kannada", "칸나다어"), "ko": ("Korean", "한국어"), "ky": ("Kyrgyz", "키르기스어"),
    "lo": ("Lao", "라오어"), "lt": ("Lithuanian", "리투아니아어"), "lv": ("Latvian", "라트비아어"),
    "mk": ("Macedonian", "마케도니아어"), "ml": ("Malayalam", "말라얄람어"), "mn": ("Mongolian", "몽골어"),
    "mr": ("Marathi", "마라티어"), "ms": ("Malay", "말레이어"), "my": ("Burmese", "버마어"),
    "nb": ("Norwegian", "노르웨이어"), "ne": ("Nepali", "네팔어"), "nl": ("Dutch", "네덜란드어"),
    "no": ("Norwegian", "노르웨이어"), "pa": ("Punjabi", "펀자브어"), "pl": ("Polish", "폴란드어"),
    "pt": ("Portuguese", "포르투갈어"), "ro": ("Romanian", "루마니아어"), "ru": ("Russian", "러시아어"),
    "si": ("Sinhala", "싱할라어"), "sk": ("Slovak", "슬로바키아어"), "sl": ("Slovenian", "슬로베니아어"),
    "sq": ("Albanian", "알바니아어"), "sr": ("Serbian", "세르비아어"), "sv": ("Swedish", "스웨덴어"),
    "sw": ("Swahili", "스와힐리어"), "ta": ("Tamil", "타밀어"), "te": ("Telugu", "텔루구어"),
    "th": ("Thai", "태국어"), "tl": ("Tagalog", "타갈로그어"), "tr": ("Turkish", "튀르키예어"),
    "uk": ("Ukrainian", "우크라이나어"), "ur": ("Urdu", "우르두어"), "uz": ("Uzbek", "우즈베크어"),
    "vi": ("Vietnamese", "베트남어"), "zh": ("Chinese", "중국어"),
}  # fmt: skip


def wording(language: str) -> Wording:
    """The language in which prompts for rows of this language are written: Korean for Korean, else English."""
    return "ko" if language == "ko" else "en"


def name_of(language: str, within: Wording = "en") -> str:
    """The name of a language in a prompt of the wording; its code where it has none here."""
    names = NAMES.get(language)
    if names is None:
        return (
            f"the language with the ISO 639 code {language!r}"
            if within == "en"
            else f"ISO 639 코드가 {language}인 언어"
        )
    return names[within == "ko"]
