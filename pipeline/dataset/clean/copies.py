"""Rules on answers that repeat the instruction or the input."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts

SHORTEST = 20  # characters of an instruction; half of them in Hangul
LONGEST = 2_000
BOUNDARY = re.compile(r"[ \t]*[.:?!]*[\"'*]*[ \t]*\n\s*|[ \t]*[:?][ \t]+(?=\S)")
COPYING = re.compile(
    r"\b(?:repeat|copy|copies|echo|quote|restate|rewrite|type out|write down|write out|say|print|same|itself|recite|"
    r"verbatim|question|quiz|title|heading|translate|edit|correct|format|convert|reword|rephrase|punctuat\w+|"
    r"capitali\w+|instruction|prompt)\b|따라|반복|그대로|복사|베껴|필사|적어|받아쓰|옮겨|고쳐|교정|번역|질문",
    re.I,
)
# Tasks whose right answer can be the unchanged input.
MAY_STAY = re.compile(
    r"\b(?:sort|order|arrange|rearrange|rank|grammar|grammatical\w*|punctuat\w*|spell\w*|correct|error\w*|mistake\w*|"
    r"edit|proofread|fix|check|extract|identify|find|select|choose|remove|delete|duplicates?|format|convert|"
    r"simplif\w*|round|filter|list|repeat|copy|print|echo|quote|replace|if (?:any|necessary|needed|applicable)|"
    r"necessary|needed)\b|정렬|맞춤법|문법|오류|교정|찾아|고르|추출|반복|그대로",
    re.I,
)


def instruction_in_output(texts: Texts) -> Finding | None:
    """Answers that begin with the whole instruction: it is removed if an answer follows on a new line or after a colon.

    Word for word, from 20 characters on (10 with Hangul). Left alone if the task is to repeat or edit, if the sentence
    continues, and inside docstrings.
    Misses: instructions repeated in other words.
    Source: own.
    """
    asked = texts.instruction.strip()
    if asked[:10] != texts.output.lstrip()[:10] or len(asked) > LONGEST:
        return None
    shortest = SHORTEST if asked.isascii() else SHORTEST // 2
    output = texts.output.lstrip()
    bare = asked.rstrip(" .:?!")
    if len(bare) < shortest or not output.startswith(bare) or COPYING.search(asked):
        return None
    boundary = BOUNDARY.match(output, len(bare))
    if boundary is None or not re.search(r"\w", output[boundary.end() :][:200]):
        return None
    return Finding("the answer begins with the instruction", texts._replace(output=output[boundary.end() :]))


def output_is_instruction(texts: Texts) -> Finding | None:
    """Answers that are only the instruction again.

    From 10 characters on: "Hello" is a good answer to "Hello".
    Misses: a question in other words.
    Source: own.
    """
    output = texts.output.strip()
    if not SHORTEST // 2 <= len(output) <= LONGEST or output[:3].lower() != texts.instruction.strip()[:3].lower():
        return None
    if _plain(output) == _plain(texts.instruction) and _plain(output) and not COPYING.search(texts.asked):
        return Finding("the output is the instruction")
    return None


def output_is_input(texts: Texts) -> Finding | None:
    """Answers that are exactly the input, though the task is not to copy, sort or correct.

    Only reported by default: a list may be sorted already, a sentence may have no mistakes.
    Misses: an input with any change, such as a comma.
    Source: own.
    """
    if not texts.input or texts.input[:1] != texts.output[:1] or texts.input.strip() != texts.output.strip():
        return None
    if not texts.input.strip() or MAY_STAY.search(texts.asked):
        return None
    return Finding("the output is the input")


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(" .:?!")
