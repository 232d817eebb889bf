"""Splits a conversation that is longer than the cutoff into rows that repeat some history.

    turns    S  Q1 A1  Q2 A2  Q3 A3  Q4 A4        rows     S Q1 A1 Q2 A2        learns A1 A2
                                                           S Q2 A2 Q3 A3        learns A3      (A2 is history)
                                                           S Q3 A3 Q4 A4        learns A4

Each answer is learnt once. The history of a row is at most half of the cutoff, so that few tokens are repeated.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable

from pipeline.prompt.conversation import Conversation
from pipeline.prompt.encode import Row


def split_rows(
    conversation: Conversation, encode: Callable[[Conversation], Row], cutoff: int, alone: bool
) -> tuple[list[Row], int]:
    """The rows of a conversation, and how many answers that should be learnt fit into none, even without history.

    Args:
        encode: of one conversation, cut at the cutoff. alone: a row learns only its last answer.
    """
    messages = conversation.messages
    first = 1 if messages[0]["role"] == "system" else 0
    starts = [i for i in range(first, len(messages)) if messages[i]["role"] == "user"]
    ends = [i + 1 for i in conversation.answers]

    def row_of(start: int, end: int, learnt: int) -> Row:
        return encode(conversation.part(first, start, end, learnt))

    def is_too_much(start: int, before: int, end: int) -> bool:
        history = len(row_of(start, before, 0).ids) if start < before else 0
        row = row_of(start, end, 0)
        return bool(row.cut or row.problem) or 2 * history > cutoff

    rows: list[Row] = []
    learnt = n = left_out = 0
    while n < len(ends):
        before = ends[n - 1] if n else 0
        possible = [start for start in starts if start < ends[n]]
        # The shorter the history the less there is of it, so the first start that is not too much is found by halves.
        at = bisect.bisect_left(possible, True, key=lambda s: not is_too_much(s, before, ends[n]))
        if at < len(possible):
            row, learns = row_of(possible[at], ends[n], learnt), n
            while not alone and learns + 1 < len(ends):
                longer = row_of(possible[at], ends[learns + 1], learnt)
                if longer.cut or longer.problem:
                    break
                row, learns = longer, learns + 1
            if row.labelled:
                rows.append(row)
            n = learns
        elif conversation.learn[ends[n] - 1]:
            left_out += 1
        learnt = ends[n]
        n += 1
    return rows, left_out
