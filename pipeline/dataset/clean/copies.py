"""Rules about answers that repeat what was given: the instruction in front, or nothing but the input."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts

SHORTEST = 20  # characters of an instruction worth recognising; Hangul says as much in half of them
LONGEST = 2_000
BOUNDARY = re.compile(r"[ \t]*[.:?!]*[\"'*]*[ \t]*\n\s*|[ \t]*[:?][ \t]+(?=\S)")
COPYING = re.compile(
    r"\b(?:repeat|copy|copies|echo|quote|restate|rewrite|type out|write down|write out|say|print|same|itself|recite|"
    r"verbatim|question|quiz|title|heading|translate|edit|correct|format|convert|reword|rephrase|punctuat\w+|"
    r"capitali\w+|instruction|prompt)\b|따라|반복|그대로|복사|베껴|필사|적어|받아쓰|옮겨|고쳐|교정|번역|질문",
    re.I,
)
# Tasks whose right answer can be the input as it stands.
MAY_STAY = re.compile(
    r"\b(?:sort|order|arrange|rearrange|rank|grammar|grammatical\w*|punctuat\w*|spell\w*|correct|error\w*|mistake\w*|"
    r"edit|proofread|fix|check|extract|identify|find|select|choose|remove|delete|duplicates?|format|convert|"
    r"simplif\w*|round|filter|list|repeat|copy|print|echo|quote|replace|if (?:any|necessary|needed|applicable)|"
    r"necessary|needed)\b|정렬|맞춤법|문법|오류|교정|찾아|고르|추출|반복|그대로",
    re.I,
)


def instruction_in_output(texts: Texts) -> Finding | None:
    """Answers that begin with the whole instruction: it is taken off where an answer follows on a new line or a colon.

    Word for word and from 20 characters on (10 with Hangul). Left alone where the row asks to repeat or to edit, where
    the sentence simply goes on, and inside docstrings.
    Source: own. It does not see instructions repeated in other words.
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
    """Answers that are the instruction again, and nothing else.

    From 10 characters on: "Hello" is a fair answer to "Hello". Source: own. It does not see a question put in other
    words.
    """
    output = texts.output.strip()
    if not SHORTEST // 2 <= len(output) <= LONGEST or output[:3].lower() != texts.instruction.strip()[:3].lower():
        return None
    if _plain(output) == _plain(texts.instruction) and _plain(output) and not COPYING.search(texts.asked):
        return Finding("the output is the instruction")
    return None


def output_is_input(texts: Texts) -> Finding | None:
    """Answers that are the input again, letter for letter, though the task is not to copy, sort or correct.

    Only reported unless switched on: a list can be in order already, a sentence can be free of mistakes.
    Source: own. It does not see an input that was changed in a comma.
    """
    if not texts.input or texts.input[:1] != texts.output[:1] or texts.input.strip() != texts.output.strip():
        return None
    if not texts.input.strip() or MAY_STAY.search(texts.asked):
        return None
    return Finding("the output is the input")


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(" .:?!")
