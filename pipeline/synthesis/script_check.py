"""Finds text in a script that its language does not use, such as Chinese characters in Korean.

Not counted: code, quotations, a word in brackets behind one in the language's own script (대한민국(大韓民國)), and
Greek letters that stand alone, as in formulas. A row whose instruction is about another language or script (translate
into Japanese, explain these 한자) may use it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.language import SCRIPTS
from pipeline.synthesis.asking import TEXT, object_schema, request_of, wants_json
from pipeline.synthesis.language_names import name_of, wording
from pipeline.synthesis.reply_form import Field, record
from pipeline.synthesis.request import Draft, Step
from pipeline.synthesis.teachers import asked_of

SHOWN = 12  # characters in a reason
_LATIN = """af az ca cs cy da de en es et eu fi fr ga gl hr hu id is it lt lv ms nb nl no pl pt ro sk sl sq sv sw tl tr
    uz vi"""
_CYRILLIC = "be bg kk ky mk mn ru sr uk"
ALLOWED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_LATIN.split(), ()), **dict.fromkeys(_CYRILLIC.split(), ("cyrl",)),
    **dict.fromkeys(("ar", "fa", "ur"), ("arab",)), **dict.fromkeys(("hi", "mr", "ne"), ("deva",)),
    **{own: (own,) for own in ("ko", "el", "he", "th", "pa", "gu", "ta", "te", "kn", "ml", "si", "lo", "my", "ka", "km",
                               "hy")},
    "ja": ("kana", "han"), "zh": ("han",), "bn": ("beng",),
}  # fmt: skip
"""Scripts of `pipeline.dataset.language` that texts of a language use besides Latin, which every language does."""
IGNORED = "\u30fb\u3007"  # ・ separates words, and 〇 stands for a hidden letter, in all of East Asia

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
QUOTED = re.compile(r"\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|‘[^’\n]{1,200}’|(?<!\w)'[^'\n]{1,200}'(?!\w)|"
                    r"「[^」\n]{1,200}」|『[^』\n]{1,200}』|《[^》\n]{1,200}》|〈[^〉\n]{1,200}〉|"
                    r"«[^»\n]{1,200}»")  # fmt: skip
BRACKETED = re.compile(r"(?<=\w)[ \t]?(?:\([^()\n]{1,60}\)|（[^（）\n]{1,60}）|\[[^\[\]\n]{1,60}\])")
GREEK_LETTER = re.compile(r"(?<![\u0370-\u03ff])[\u0370-\u03ff]{1,2}(?![\u0370-\u03ff])")

# What an instruction says when its row may use another script.
_ANY = r"\btranslat\w*|\btransliterat\w*|\b(?:multi|bi)lingual|\bforeign (?:language|word|phrase|script)|" \
       r"übersetz|tradu[ciz]|traduis|перев[её]|翻[译譯訳]|" \
       r"\blanguages\b|\bunicode\b|번역|외국어|외국말|다국어|여러 언어|유니코드"  # fmt: skip
ABOUT: dict[re.Pattern[str], tuple[str, ...]] = {
    re.compile(pattern, re.IGNORECASE): scripts
    for pattern, scripts in (
        (_ANY, tuple(SCRIPTS)),
        (r"\b(?:chinese|mandarin|cantonese|hanzi|pinyin|hanja)\b|중국어|한자|한문|사자성어|고사성어|漢字|中文",
         ("han",)),
        (r"\b(?:japanese|kanji|hiragana|katakana|kana)\b|일본어|히라가나|가타카나|日本", ("kana", "han")),
        (r"\b(?:korean|hangul|hangeul)\b|한국어|한글", ("ko",)),
        (r"\b(?:russian|ukrainian|bulgarian|serbian|cyrillic|mongolian)\b|러시아어|우크라이나어|불가리아어|키릴",
         ("cyrl",)),
        (r"\bgreek\b|그리스어|그리스 문자", ("el",)), (r"\b(?:hebrew|yiddish)\b|히브리어", ("he",)),
        (r"\b(?:arabic|persian|farsi|urdu)\b|아랍어|아랍 문자|페르시아어|우르두어", ("arab",)),
        (r"\b(?:hindi|sanskrit|devanagari|nepali|marathi)\b|힌디어|산스크리트|데바나가리|네팔어", ("deva",)),
        (r"\bthai\b|태국어", ("th",)), (r"\bbengali\b|벵골어", ("beng",)), (r"\btamil\b|타밀어", ("ta",)),
        (r"\bgeorgian\b|조지아어", ("ka",)), (r"\barmenian\b|아르메니아어", ("hy",)),
    )
}  # fmt: skip

REWRITE = {
    "en": "This row of training data is to be in {language}, but it holds text in another script: {found}\n\n{row}\n\n"
    "Write the whole row again in {language} and its own script, with the same meaning. Change nothing else; keep "
    "code, numbers and names.\n",
    "ko": "아래 학습 데이터 한 줄은 {language}로 쓰여야 하는데 다른 문자가 섞여 있습니다: {found}\n\n{row}\n\n"
    "뜻은 그대로 두고 전체를 {language}와 그 고유 문자로만 다시 써 주세요. "
    "코드, 숫자, 이름은 그대로 두고 그 밖의 것은 바꾸지 마세요.\n",
}
IN_JSON = {
    "en": 'Reply with JSON only: {"instruction": "...", "input": "...", "output": "..."}',
    "ko": '다음 JSON으로만 답하세요: {"instruction": "...", "input": "...", "output": "..."}',
}
IN_TEXT = {
    "en": "Reply in this form only (<noinput> for an empty input):\nInstruction: ...\nInput: ...\nOutput: ...",
    "ko": "다음 형식으로만 답하세요(입력이 없으면 <noinput>):\n지시: ...\n입력: ...\n출력: ...",
}
ROW_FIELDS = (
    Field("instruction", ("Instruction", "지시")), Field("input", ("Input", "입력"), may_lack=True),
    Field("output", ("Output", "출력")),
)  # fmt: skip


def is_known(language: str) -> bool:
    """Whether the scripts of a language are known here; others are not checked."""
    return language in ALLOWED


def foreign_script(text: str, language: str, about: str = "") -> str:
    """The characters of a text that its language does not use, each once, at most 12; empty: none.

    Args:
        about: the row's instruction: scripts of languages that it is about are allowed.
    """
    if text.isascii() or language not in ALLOWED:
        return ""
    text = CODE.sub(" ", text)
    aside = QUOTED.sub(" ", BRACKETED.sub(" ", text))
    text = GREEK_LETTER.sub(" ", aside if re.search(r"[^\W\d_]", aside) else text)  # not a text that is all quotation
    allowed = {*ALLOWED[language], *(s for pattern, names in ABOUT.items() if pattern.search(about) for s in names)}
    signs = "".join(ranges for name, ranges in SCRIPTS.items() if name not in allowed)
    found = re.findall(f"(?![{IGNORED}])[{signs}]", text) if signs else []
    return "".join(list(dict.fromkeys(found))[:SHOWN])


def foreign_in(row: Draft, language: str) -> tuple[str, str]:
    """The first field of a row with foreign script, and its characters; two empty texts: none."""
    for field in ("instruction", "input", "output"):
        if found := foreign_script(getattr(row, field), language, row.instruction):
            return field, found
    return "", ""


def reject_foreign(settings: Synthesis, row: Draft) -> Draft:
    """The row, rejected by the rule `wrong-script` where it holds foreign script and the config refuses that."""
    field, found = foreign_in(row, settings.language) if settings.keep_scripts else ("", "")
    reason = f"{field} holds a script that {name_of(settings.language)} does not use: {found}"
    return row.reject("wrong-script", reason) if found else row


def in_own_script(settings: Synthesis, row: Draft) -> Step:
    """The row, asked for once again where it holds foreign script; rejected where that does not help."""
    if not reject_foreign(settings, row).rejected:
        return row
    _, found = foreign_in(row, settings.language)
    within, is_json = wording(settings.language), wants_json(asked_of(settings, "teacher"))
    shown = f"Instruction: {row.instruction}\nInput: {row.input or '<noinput>'}\nOutput: {row.output}"
    text = REWRITE[within].replace("{language}", name_of(settings.language, within)).replace("{found}", found)
    head, _, tail = text.partition("{row}")
    prompt = head + shown + tail + (IN_JSON if is_json else IN_TEXT)[within]
    schema = object_schema(instruction=TEXT, input=TEXT, output=TEXT)
    request = request_of(settings, prompt, "script", schema, draw=1)
    reply = yield request
    row = row.made_of(request)
    if reply.failure:
        return row.reject("refused-request", reply.failure)
    got = record(reply.text, ROW_FIELDS, reply.finish)
    if isinstance(got, str):
        return reject_foreign(settings, row).reject("wrong-script", f"holds {found}; asked again: {got}", reply.text)
    return reject_foreign(settings, replace(row, **got))
