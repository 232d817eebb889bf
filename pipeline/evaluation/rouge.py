"""ROUGE-L: how much of an answer stands in the reference in the same order (Lin 2004, W04-1013, section 3).

L = longest common subsequence of tokens, P = L / tokens said, R = L / tokens expected, F = 2 P R / (P + R)
"""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from pipeline.dataset.select.rouge_tokens import tokens


def rouge_l(expected: str, said: str, language: str) -> float:
    """F of one answer, 0 to 1; tokens as in `pipeline.dataset.select.rouge_tokens` (for `en` those of rouge_score)."""
    theirs, own = tokens(expected, language), tokens(said, language)
    common = LCSseq.similarity(theirs, own)
    if not common:
        return 0.0
    precision, recall = common / len(own), common / len(theirs)
    return 2 * precision * recall / (precision + recall)
