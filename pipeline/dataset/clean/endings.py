"""Rules on the end of answers: truncated in a sentence, or a loop."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts

SHORTEST = 60  # characters; shorter answers are words, titles or labels
TAIL = 400
# No sentence ends with one of these words. Words that may end one ("on", "to", "in", "that", "this") are not included.
DANGLING = re.compile(
    r"[a-z,] (?:the|a|an|and|or|but|nor|of|from|into|without|because|although|while|whereas|if|unless|such as|"
    r"including|between|among|during|your|their|its|our|my|than|whose|every|via|upon|toward|towards|these|is a|are a|"
    r"which is|who are)\Z"
)
OPEN_END = re.compile(r"[a-z]{2,},\Z|\b\w+ [a-z]{3,}-\Z|\d-\Z|[a-z] \(\Z")
EMPTY_ITEM = re.compile(r"\n[ \t]{0,4}(?:\d{1,3}[.)]|[-*•])\Z")
VERSE = re.compile(r"\b(?:poem|haiku|song|lyrics?|verse|rhyme|sonnet|limerick|rap|stanza|ballad|ode|chorus)\b", re.I)
ENDING_GIVEN = re.compile(
    r"\b(?:fill|blank|complete|continue|beginning|start of|opening|prefix|phrase|fragment|unfinished|incomplete|"
    r"prompt|hook|preposition\w*|conjunction\w*|article|punctuat\w*|remove|delete|keywords?|letter|mail|email|e-mail|"
    r"words?|list|reverse|backwards?|comma\w*|csv|sentence|code|function|program|script|salutation|greeting)\b",
    re.I,
)
CODE = re.compile(r"[{}=;|]|\bdef |\bprint\b|<\w+>|```|</")
# Complete sentences before the end: prose, so the last sentence should be complete too.
SENTENCES = re.compile(r"[a-z]{2,}[.!?][\"')\]]? [A-Z]")
SIGNED = re.compile(r"[\"'”’] ?[-–—~]{1,2} ?[^-–—]{2,40}\Z")
KOREAN_SENTENCE = re.compile(r"[가-힣](?:다|요|죠|까)[.!?]\s")
KOREAN_DANGLING = re.compile(
    r"(?:[가-힣](?:은|는|을|를|의|에서|으로|에게|와|과|하고|하며|하여|해서|지만|때문에|위해|대한|있는|하는|되는|"
    r"같은)|및|또는|그리고|그러나|하지만)\Z"
)
LIST_ITEM = re.compile(r"\s*(?:\d{1,3}[.)]|[-*•#>|]|[A-Za-z가-힣][.)] )")
REPEATS = re.compile(
    r"\b(?:repeat\w*|times|copies|loop|infinite|pattern|again and again|forever|many|characters|long)\b|번|반복|무한|"
    r"계속",
    re.I,
)
PERIOD = 40  # words in the longest loop
LOOPS = 5  # least repetitions


def cut_off(texts: Texts) -> Finding | None:
    """Truncated answers: they end after "the", a comma or "4.", in a code fence, or without a full stop.

    A missing full stop counts only in prose; lists, verse, code and short answers are only checked for an incomplete
    phrase or an open code fence. Korean: a particle or a connecting form at the end. Only reported by default.
    Misses: an answer truncated exactly after a sentence or a list item.
    Source: own; text-davinci-003 and ChatGPT stop at their token limit.
    """
    output = texts.output
    if "```" in output and output.count("```") % 2:
        return Finding("a code fence is not closed", None, "output", output.rfind("```"))
    tail = output[-TAIL:].rstrip()
    if len(output) < SHORTEST or not tail:
        return None
    if EMPTY_ITEM.search(tail, max(0, len(tail) - 12)):
        return Finding("the last item of the list is empty", None, "output", len(output.rstrip()) - 1)
    if tail[-1] in ".!?\"'”’)]}>;|`*。…~":
        return None
    # Hashtags, handles and addresses may end a text without a full stop.
    if any(sign in tail[-60:].rsplit(None, 1)[-1] for sign in "#@/_") or "#" in tail[-60:]:
        return None
    at = len(output.rstrip()) - 1
    if not tail.isascii() and KOREAN_SENTENCE.search(output) and KOREAN_DANGLING.search(tail):
        return Finding("the answer stops in the middle of a sentence", None, "output", at)
    line = tail[tail.rfind("\n") + 1 :]
    if OPEN_END.search(tail) or DANGLING.search(line):
        if CODE.search(tail) or VERSE.search(texts.asked) or ENDING_GIVEN.search(texts.asked):
            return None
        return Finding("the answer stops in the middle of a sentence", None, "output", at)
    if len(line) >= 120 and line[-1:].isalpha() and not LIST_ITEM.match(line) and SENTENCES.search(line):
        if SIGNED.search(line) or CODE.search(tail) or VERSE.search(texts.asked):
            return None
        return Finding("the last sentence has no end", None, "output", at)
    return None


def too_repetitive(texts: Texts) -> Finding | None:
    """Answers that end in a loop: the same words at least five times, or one letter forty times.

    Greedy decoding produces such loops, and they do not end, so only the last words are checked: a period of up to 40
    words, at least 20 words in all. Left alone if the row asks for repetition.
    Misses: loops with a counter ("Item 1 … Item 2 …").
    Source: own; degenerate repetition as in Holtzman et al., 2020 (arXiv 1904.09751).
    """
    output = texts.output
    if len(output) < SHORTEST:
        return None
    words = output[-20 * TAIL :].split()
    if len(words) >= 4 * LOOPS and (period := _period(words)) and not REPEATS.search(texts.asked):
        return Finding(
            f"the answer ends in a loop of {period} word{'s' * (period > 1)}", None, "output", len(output) - 1
        )
    for letter in {output[-1], output[len(output) // 2]}:
        if letter * 40 in output and letter.isalpha() and not REPEATS.search(texts.asked):
            return Finding(f"the letter {letter!r} stands 40 times in a row", None, "output", output.find(letter * 40))
    return None


def _period(words: list[str]) -> int:
    """Words in the loop at the end of `words`, 0 for none. A loop needs a word with a letter."""
    last = words[-1]
    for period in range(1, min(PERIOD, len(words) // LOOPS) + 1):
        if words[-1 - period] != last:
            continue
        span = max(period * (LOOPS - 1), 4 * LOOPS - period)
        if span + period > len(words) or words[-span:] != words[-span - period : -period]:
            continue
        if any(c.isalpha() for word in words[-period:] for c in word):
            return period
    return 0
