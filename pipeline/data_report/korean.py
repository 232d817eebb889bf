"""The root verb of a Korean instruction and the noun that it is about, by kiwi's morphemes.

Korean ends with its predicate, so the root is the last verb or adjective of the first sentence, before the endings of
politeness:

    이메일/NNG 을/JKO 작성/NNG 하/XSV 어/EC 주/VX 시/EP 기/ETN 바라/VV ᆸ니다/EF      작성하다, 이메일
                      ~~~~~~~~~~~~~~~ root          ~~~~~~~~~~~~~~~~~~~~~ "would you please"

The noun is the object (을/를). Spoken Korean drops the particle of an object, and many requests have none; then it is,
within the root's own clause, the nearest of: a noun without a particle (여행 가고 싶다), the subject or topic (친구가
없어), the place or target (학교에 가다).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data_report.korean_nouns import NOUN, argument_of, named, object_of
from pipeline.run.progress import bar

LONGEST = 300  # characters parsed
_FIRST = re.compile(r".{6,}?(?:(?:[.!?…]|(?<=[요오라다]):)[\"'”’)]*(?=\s)|\n)", re.DOTALL)
VerbObject = tuple[str, str]  # verb in its dictionary form, object; "" where there is none

ADVERB = ("잘", "더")  # part of a verb: 잘하다, 더하다
ENDING = ("EP", "EF", "EC", "ETN", "ETM", "JX", "JKO", "JKS", "JKB", "SF", "SP", "SE", "SSC", "SSO", "SS", "SO", "SW",
          "W_EMOJI", "Z_CODA")  # fmt: skip
# Verbs that only help another one when they follow its -어: 고쳐 쓰다, 만들어 내다, 풀어 보다.
HELPERS = ("쓰", "주", "드리", "보", "내", "놓", "두", "버리", "오", "가", "나가", "달", "적")
WISHES = ("바라", "원하", "부탁", "희망", "요청", "감사")  # "I ask for", "I would be grateful for"


@dataclass(frozen=True, slots=True)
class Root:
    """A verb in its dictionary form; its morphemes stand at start..end-1."""

    verb: str
    start: int
    end: int


class Korean:
    """A loaded analyser."""

    def __init__(self) -> None:
        from kiwipiepy import Kiwi  # its model takes a second: only where a chart is to be made

        self._kiwi = Kiwi(num_workers=2)

    def pairs(self, instructions: Sequence[str]) -> list[VerbObject]:
        """Verb and object of each instruction's first sentence."""
        texts = [first_sentence(text) for text in instructions]
        found = self._kiwi.tokenize(texts)
        return [root_and_object(tokens) for tokens in bar(found, total=len(texts), what="report: Korean verbs")]


def first_sentence(text: str) -> str:
    """Up to the first full stop with a space behind it, or line break. kiwi's own sentences split at quoted endings."""
    text = text.strip()[:LONGEST]
    found = _FIRST.match(text)
    return found[0].strip() if found else text


def root_and_object(sentence: Sequence[Any]) -> VerbObject:
    """Root verb and object of a sentence; each morpheme has `form` and `tag`."""
    root = _root(sentence)
    if root is None:
        return "", ""
    verb, object = root.verb, object_of(sentence, root.start) or argument_of(sentence, root.start)
    before = root.start - 1
    if verb == "되다" and before >= 0 and sentence[before].tag == "NNG":  # 걱정 되다 is 걱정되다
        return sentence[before].form + "되다", argument_of(sentence, before)
    if verb == "하다":  # 번역을 해 주세요 is 번역해 주세요
        if before >= 1 and sentence[before].tag in ("JKO", "JX") and sentence[before - 1].tag in ("NNG", "SL"):
            noun = sentence[before - 1].form
            return noun + "하다", object_of(sentence, before - 1) or argument_of(sentence, before - 1)
        if before >= 0 and sentence[before].form in ADVERB:
            return sentence[before].form + "하다", object
        while before >= 0 and sentence[before].tag == "MAG":
            before -= 1
        if before >= 0 and sentence[before].tag == "NNG" and named(sentence, before):  # 염색 다시 해요 is 염색해요
            return sentence[before].form + "하다", argument_of(sentence, before)
        return "", ""
    return verb, object


def _root(sentence: Sequence[Any]) -> Root | None:
    """The last predicate, if it is a verb, after skipping requests and helping verbs from the end."""
    at = len(sentence) - 1
    while at >= 0:
        tag, form = sentence[at].tag, sentence[at].form
        if tag in ENDING or _is_frame(sentence, at):
            at -= 1
        elif (wish := _wish(sentence, at)) is not None:
            at = wish
        elif tag in ("XSV", "XSA", "XSA-I"):
            if at and (sentence[at - 1].tag in (*NOUN, "XSN", "NNB") or sentence[at - 1].form in ADVERB):
                return Root(sentence[at - 1].form + form + "다", at - 1, at + 1)
            return None
        elif tag.startswith(("VV", "VX", "VA")):
            if _helps(sentence, at):
                at -= 1
                continue
            return Root(form + "다", at, at + 1)
        elif tag == "NNG" and _ends_with_noun(sentence, at):
            return Root(form + "하다", at, at + 1)
        else:
            return None  # "is" or a bare noun: no verb to name
    return None


def _is_frame(sentence: Sequence[Any], at: int) -> bool:
    """Whether the word only frames the verb before it: 번역해 | 줄 수 있나요, 번역할 | 것, 번역하면 | 좋겠습니다."""
    tag, form = sentence[at].tag, sentence[at].form
    if tag == "VX":
        return _joined(sentence, at)
    before = sentence[at - 1] if at else None
    if tag == "NNB":
        return form in ("것", "수", "거", "줄", "듯", "적", "걸")
    if before is not None and (tag == "VCP" or form == "같"):  # 떠날 것이다, 온 것 같다
        return before.tag == "NNB" and before.form in ("것", "거", "듯", "걸")
    if before is not None and form == "되" and before.tag == "EC":  # 먹어야 되다, 가도 되다, 하게 되다
        return before.form.endswith(("야", "도", "게"))
    return form in ("있", "없", "좋", "되") and at > 0 and _before(sentence, at) in ("수", "줄", "면", "으면", "면서")


def _before(sentence: Sequence[Any], at: int) -> str:
    """The form before `at`, particles aside."""
    at -= 1
    while at > 0 and sentence[at].tag in ("JX", "JKS"):
        at -= 1
    return str(sentence[at].form)


def _wish(sentence: Sequence[Any], at: int) -> int | None:
    """Where to go on when a wish about another action ends at `at`: 작성해 주시기 | 바랍니다, 번역 | 부탁드립니다."""
    start = at
    if sentence[at].tag in ("XSV", "XSA") or (sentence[at].form in ("드리", "하") and sentence[at].tag.startswith("V")):
        start -= 1
        if start > 0 and sentence[start].tag == "JKO":
            start -= 1
    if start <= 0 or sentence[start].form not in WISHES:
        return None
    before = start - 1
    while before > 0 and sentence[before].tag in ("JKO", "JX"):
        before -= 1
    asked = sentence[before]
    if asked.tag in ("ETN", "VX") or (asked.tag == "EC" and asked.form in ("면", "으면")):
        return before
    if asked.tag == "NNG" and sentence[start].form in ("부탁", "요청", "바라", "원하", "희망"):
        return before
    return None


def _joined(sentence: Sequence[Any], at: int) -> bool:
    """Whether a verb form comes right before: kiwi also tags the verb of 함수를 만드세요 as an auxiliary."""
    return at > 0 and sentence[at - 1].tag in ("EC", "ETN", "ETM", "JX", "EF")


def _helps(sentence: Sequence[Any], at: int) -> bool:
    """Whether the verb at `at` only helps the verb right before it: 고치/VV 어/EC 쓰/VV."""
    joined = at >= 2 and sentence[at - 1].tag == "EC" and sentence[at - 1].form in ("어", "아", "여")
    before = sentence[at - 2].tag if at >= 2 else ""
    return joined and sentence[at].form in HELPERS and (before.startswith("VV") or before in ("XSV", "VX"))


def _ends_with_noun(sentence: Sequence[Any], at: int) -> bool:
    """Whether a noun stands for its verb: 다음 글을 요약, or 번역 부탁드립니다."""
    rest = sentence[at + 1 :]
    asked = any(token.form in WISHES for token in rest)
    return asked or (at > 0 and sentence[at - 1].tag == "JKO" and all(t.tag in ("SF", "SP", "SE") for t in rest))
