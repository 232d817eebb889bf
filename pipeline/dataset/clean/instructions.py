"""Rules on instructions that cannot be followed: no words, a placeholder, a missing text."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts

LONGEST = 400
EMOTICON = re.compile(r"\s*(?:[:;=][-^'o]?[()\[\]/\\|*]+|\^[_.-]*\^)\s*")  # has a meaning without a word
WORD = re.compile(r"[^\W_]")
STAND_IN = re.compile(
    r"[\s\[\](){}<>\"'.*_#-]*(?:instructions?|prompt|question|tests?|testing|todo|tbd|n/?a|none|null|nan|nil|"
    r"undefined|asdf\w*|qwerty\w*|lorem ipsum.{0,80}|placeholder|insert (?:instruction|prompt|question|"
    r"text)(?: here)?|your (?:instruction|prompt|question)(?: here)?|no ?input|no ?instruction|no ?output|지시문?|"
    r"지시사항|질문|테스트|명령어?|없음|내용 ?없음)[\s\[\](){}<>\"'.*_#:-]*",
    re.I,
)
# The end of the instruction refers to a text: "… the following sentence.", "… the given numbers:".
TEXT_KINDS = (
    r"(?:sentences?|paragraphs?|texts?|passages?|phrases?|words?|articles?|code|code snippet|snippet|program|"
    r"function|numbers?|lists?|array|data|dataset|table|equations?|expressions?|poem|stor(?:y|ies)|conversations?|"
    r"dialogues?|tweet|email|review|quote|statements?|items?|input|information|document|essay|lyrics|recipe|report|"
    r"messages?|strings?|example|problem|terms?|images?|pictures?|photos?)"
)
POINTING = re.compile(
    r"(?<!\ba )(?<!\bany )(?<!\beach )\b(?:following|below|given|provided|above|supplied|attached) (?:[a-z-]+ ){0,2}?"
    + TEXT_KINDS
    + r"(?: (?:below|above|given|provided))?(?: (?:into|to|in|as|from|by|with|for|using|and|so|"
    r"that) [^.:?!\n\"“(]{1,80})?\s*[.:]?\s*\Z"
    r"|\b(?:this|these) " + TEXT_KINDS + r"\s*[.:]\s*\Z"
    r"|\b(?:the )?following\s*[.:]?\s*\Z",
    re.I,
)
GIVEN_START = re.compile(
    r"(?:given|using|based on|from|for|read|consider) (?:the|this|these) (?:following|below|given|"
    r"above) (?:[a-z-]+ ){0,2}?" + TEXT_KINDS + r"\b[^:\"“”'\n(\[0-9]{0,200}\Z",
    re.I,
)
# A program for "the given string" is a complete task.
GENERAL = re.compile(
    r"\b(?:algorithm|function|program|script|query|pseudocode|code in|class|method|regex\w*|formula|command|task|"
    r"model|html|test cases?)\b",
    re.I,
)
KOREAN_POINTING = re.compile(
    r"(?:다음|아래|주어진|위|이|제시된) ?(?:의 )?(?:문장|글|문단|단락|텍스트|지문|기사|코드|숫자|목록|단어|표|대화|"
    r"시|이야기|수식|식|리뷰|내용|데이터)(?:들)?(?:을|를|의|에서|은|는)[^:\n\"'“‘「『<(\[0-9]{0,60}(?:하세요|주세요|"
    r"하시오|하라|해라|해줘|해 줘|십시오|바꾸기|하기)[.!]?\s*\Z"
)
LATER = re.compile(r"[:\n\"“”'‘’«「『<(\[{0-9]|\be\.g\b|\bnamed\b|\bcalled\b|\btitled\b")


def unclear_instruction(texts: Texts) -> Finding | None:
    """Instructions without a word or a number, or only a placeholder such as "[instruction]" or "test".

    Later turns of a conversation are left alone.
    Misses: nonsense made of words; see `missing-input` for instructions about a missing text.
    Source: AlpacaDataCleaned, class 9, as far as it can be detected automatically; there it was done by hand.
    """
    asked = texts.instruction
    if len(asked) > LONGEST or len(asked.strip()) > 120 or texts.has_history:
        return None
    if EMOTICON.fullmatch(asked):
        return None
    if not asked or asked.isspace() or not (WORD.search(asked) or WORD.search(texts.input)):
        return Finding("the instruction has no words", None, "instruction")
    if not texts.input and STAND_IN.fullmatch(asked):
        return Finding("the instruction is a placeholder", None, "instruction")
    return None


def missing_input(texts: Texts) -> Finding | None:
    """Instructions about "the following sentence" or "다음 글", with an empty input and without that text.

    Only if the last words of the instruction refer to the text, and no colon, quote, bracket, digit or line break in
    the instruction could introduce it.
    Misses: references without "following", "given" and the like ("the article"), and references before the last words.
    Source: AlpacaDataCleaned, class 9, "unclear".
    """
    asked = texts.instruction
    if texts.input or texts.has_history or len(asked) > LONGEST:
        return None
    if asked.isascii():
        lower = asked.lower()
        if not any(
            word in lower
            for word in ("following", "below", "given", "above", "provided", "this ", "these ", "attached")
        ):
            return None
    bare = asked.strip().rstrip(".:")
    if LATER.search(bare) or GENERAL.search(bare):
        return None
    if POINTING.search(asked) or GIVEN_START.match(asked) or (not asked.isascii() and KOREAN_POINTING.search(asked)):
        return Finding("the instruction points at a text that is not there", None, "instruction")
    return None
