"""How much of an answer is shown before the vote.

An answer that did not stop by itself was cut off after the last token allowed. Its run-on text tells which model wrote
it, so the page shows such an answer only up to a natural end until the vote is cast:

    the first line that begins a new turn (`### Instruction`, `User:`), or the second copy of a repeated phrase
    else a length like the other answer's (`TIMES` as long, at least `LEAST` characters)
    there, or before it, the end of a sentence
"""

from __future__ import annotations

import re

TIMES, LEAST = 2, 300
UNIT = 12  # characters of a repeated phrase at least
_TURN = re.compile(
    r"\n\s*(?:#{1,6} ?(?:instruction|input|response|question|answer|explanation|명령어|지시|입력|응답|질문|답변)\b"
    r"|(?:user|assistant|human|system|question|instruction|사용자|질문)\s*:|<\|)",
    re.IGNORECASE,
)
_LOOP = re.compile(rf"(.{{{UNIT},120}}?)\s*\1\s*\1", re.DOTALL)
_SENTENCE = re.compile(r"[.!?。…][\"'”’)]*(?=\s|$)|\n")


def shown_before_the_vote(text: str, other: str) -> int:
    """Characters of an answer that did not stop which are shown before the vote. other: the other model's answer."""
    end = min(len(text), max(LEAST, TIMES * len(other)))
    turn = _TURN.search(text, 1)
    if turn:
        end = min(end, turn.start())
    loop = _LOOP.search(text[:4000])
    if loop:
        end = min(end, loop.end(1))
    ends = [found.end() for found in _SENTENCE.finditer(text, 0, end)]
    return ends[-1] if ends else end
