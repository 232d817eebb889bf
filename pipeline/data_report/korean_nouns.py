"""The noun that a Korean predicate is about, by kiwi's morphemes: its object, or else another noun of its clause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOUN = ("NNG", "NNP", "SL", "SH", "XR")  # no pronouns: "it" says nothing about a task
QUANTITY = ("MM", "NR", "SN")
SUBJECT, TARGET = ("JKS", "JKC", "JX"), ("JKB",)
# Nouns that stand without a particle as adverbs of time, measure or manner.
_ADVERBIAL = """
오늘 내일 어제 모레 지금 이제 요즘 요새 아까 방금 매일 매번 매주 항상 평소 올해 내년 작년 이번 다음
지난번 순간 동안 때 후 뒤 전 중 아침 저녁 밤 낮 새벽 주말 하루 평생 정도 이상 이하 모두 전부 서로
각자 혼자 스스로 진짜 정말 완전 처음 마지막 그냥 대신 덕분 때문 만큼 뭐 무엇 아무것 나중 다음날 언제
자꾸 계속 조금 잠깐 먼저 대체 도대체 가끔
"""
ADVERBIAL = frozenset(_ADVERBIAL.split())


def object_of(sentence: Sequence[Any], root: int) -> str:
    """The noun before the nearest 을/를 that belongs to the root: none from another clause is taken."""
    at = root - 1
    if at >= 0 and sentence[at].tag in ("NNG", "NNP", "SL", "XSN") and sentence[root].tag == "NNG":
        return _head(sentence, at)  # 회의록 작성해 줘
    only = ""  # 초성만 적어 주세요
    while at >= 0:
        tag = sentence[at].tag
        if tag == "JKO":
            return _head(sentence, at - 1)
        if tag == "JX" and sentence[at].form == "만" and not _is_counted(sentence, at - 1):
            only = only or _head(sentence, at - 1)
        if tag == "ETM" or (tag == "EC" and not _shares(sentence, at)):
            break
        at -= 1
    return only


def argument_of(sentence: Sequence[Any], root: int) -> str:
    """The noun that the root is about where it has no object; none from another clause is taken."""
    found: dict[str, str] = {}
    at = root - 1
    while at >= 0:
        tag = sentence[at].tag
        if tag in ("ETM", "SF") or (tag == "EC" and not _shares(sentence, at)):
            break
        kind = "subject" if tag in SUBJECT else "target" if tag in TARGET else ""
        if not kind and tag in NOUN and (at + 1 == root or sentence[at + 1].tag in ("MAG", "MM", "SP", "SN", "NR")):
            kind = "bare"
        if kind:
            noun = at if kind == "bare" else at - 1
            name = named(sentence, noun)
            if name:
                found.setdefault(kind, name)
            while noun > 0 and sentence[noun - 1].tag in (*NOUN, "XSN", "XPN"):
                noun -= 1  # the noun before it only narrows it: 여자 친구
            at = min(at, noun)
        at -= 1
    return next((found[kind] for kind in ("bare", "subject", "target") if kind in found), "")


def named(sentence: Sequence[Any], at: int) -> str:
    """The noun that ends at `at`, unless it is an adverb of time, a pronoun or a bound noun."""
    noun = _head(sentence, at) if at >= 0 else ""
    is_noun = at >= 0 and sentence[at].tag in (*NOUN, "XSN", "SSC", "SS")
    return noun if is_noun and noun not in ADVERBIAL else ""


def _shares(sentence: Sequence[Any], at: int) -> bool:
    """Whether the verb before this connective may have the root's object: 맞춤법을 찾아 고쳐라, 정중하게 바꿔라."""
    before = sentence[at - 1].tag if at else ""
    if sentence[at].form in ("어", "아"):
        return before.startswith("VV") or before in ("VX", "EP")
    return sentence[at].form in ("게", "도록") and before in ("XSA", "VA", "VA-I", "VA-R", "MAG")


def _head(sentence: Sequence[Any], at: int) -> str:
    """The noun that ends at `at`, behind plural marks, quotation marks, brackets and counted pieces (방법 세 가지)."""
    if at >= 0 and sentence[at].form == ")":
        while at > 0 and sentence[at].form != "(":
            at -= 1
        at -= 1
    while at >= 0 and sentence[at].tag in ("XSN", "SSC", "SS", "SF"):
        at -= 1
    if _is_counted(sentence, at):
        counted = at - 2
        while counted >= 0 and sentence[counted].tag in ("XSN", *QUANTITY):
            counted -= 1
        if counted >= 0 and sentence[counted].tag in NOUN:
            at = counted
    return str(sentence[at].form) if at >= 0 and sentence[at].tag in (*NOUN, "NNB", "NR") else ""


def _is_counted(sentence: Sequence[Any], at: int) -> bool:
    return at >= 1 and sentence[at].tag in ("NNB", "NNG") and sentence[at - 1].tag in QUANTITY
