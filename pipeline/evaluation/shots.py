"""In-context learning: training rows with their answers before a question (Brown et al. 2020, arXiv 2005.14165).

    [BOS] question 1, answer 1, END, ..., question k, answer k, END, question

Each example is encoded like a training row, END after the answer included. With a chat template the examples are
turns of one conversation, as the harness writes them (`--fewshot_as_multiturn`):

    [system] user 1, assistant 1, ..., user k, assistant k, user: question
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import IGNORE, Row

T = TypeVar("T")


class Shots:
    """Chooses examples for a question; a pure function of the seed and the question.

    Examples of the question's own task are drawn first, without replacement, then others until there are `count`.

    Args:
        pool: rows to take examples from. count: k; examples that do not fit are left out. most: tokens that the model
            sees. room: of them, kept for the answer.
    """

    def __init__(
        self, encoder: AnyEncoder, pool: Sequence[Example], count: int, seed: int, most: int, room: int
    ) -> None:
        self.encoder, self.pool, self.count, self.seed, self.most = encoder, pool, count, seed, most - room
        self.by_task: dict[str, list[int]] = {}
        for i, example in enumerate(pool):
            self.by_task.setdefault(example.task, []).append(i)

    def chosen(self, example: Example) -> list[Example]:
        """At most `count` examples; the last one stands next to the question."""
        draw = random.Random(f"{self.seed}:{example.id}")
        own = self.by_task.get(example.task, []) if example.task else []
        indices = draw.sample(own, min(self.count, len(own)))
        if len(indices) < self.count:
            drawn = set(indices)
            others = draw.sample(range(len(self.pool)), min(len(self.pool), 2 * self.count))
            indices = [i for i in others if i not in drawn][: self.count - len(indices)] + indices
        return [self.pool[i] for i in indices if self.pool[i].id != example.id]

    def before(self, example: Example, length: int) -> list[int]:
        """Ids before a question of `length` tokens, without BOS: the prompt begins with the question's own."""
        before_question: list[int] = []
        for row in reversed(self.encoder.rows(self.chosen(example))):
            ids = self._without_bos(row.ids)
            if row.cut or len(ids) + len(before_question) + length > self.most:
                continue
            before_question = ids + before_question
        return before_question

    def prompt(self, example: Example) -> list[int]:
        """Ids of the prompt: examples and question."""
        own = self.encoder.prompt_for(example)
        return self._joined(self.before(example, len(own)), own)

    def tokens(self, examples: Sequence[Example]) -> EncodedRows:
        """Encoded rows with examples before them; only the row's own labels carry loss."""
        return EncodedRows([self._row(e, row) for e, row in zip(examples, self.encoder.rows(examples), strict=True)])

    def _row(self, example: Example, row: Row) -> tuple[list[int], list[int]]:
        before = self.before(example, len(row.ids))
        return self._joined(before, row.ids), self._joined([IGNORE] * len(before), row.labels)

    def _joined(self, before: list[int], own: list[int]) -> list[int]:
        bos = 0 if self.encoder.bos_id is None else 1
        return own[:bos] + before + own[bos:]

    def _without_bos(self, ids: list[int]) -> list[int]:
        return ids if self.encoder.bos_id is None else ids[1:]


class ChatShots(Shots):
    """Examples as turns of a conversation; those that call tools are left out."""

    encoder: ChatEncoder

    def chosen(self, example: Example) -> list[Example]:
        return [e for e in super().chosen(example) if not e.tools and all(turn.role != "tool" for turn in e.turns)]

    def prompt(self, example: Example, chosen: Sequence[Example] | None = None) -> list[int]:
        """As of `Shots`. chosen: the examples; None: those of the question."""

        def after(shots: Sequence[Example]) -> list[int]:
            return self.encoder.prompt_for(example, shots)

        chosen = self.chosen(example) if chosen is None else chosen
        return self._with_most(chosen, after, len)

    def _row(self, example: Example, row: Row) -> tuple[list[int], list[int]]:
        if row.cut or row.lost_turns or row.problem:
            return row.ids, row.labels  # it has no room for examples
        longer = self._with_most(
            self.chosen(example), lambda shots: self.encoder.row_after(example, shots) if shots else row,
            lambda row: len(row.ids) if not row.problem else self.most + 1,
        )  # fmt: skip
        return longer.ids, longer.labels

    def _with_most(
        self, shots: Sequence[Example], after: Callable[[Sequence[Example]], T], size: Callable[[T], int]
    ) -> T:
        """The question after as many examples as fit, those next to it first.

        Args:
            after: the question after examples. size: its tokens.
        """
        every = after(shots)
        if size(every) <= self.most:
            return every
        kept: list[Example] = []
        best = after(kept)
        for shot in reversed(shots):
            tried = after([shot, *kept])
            if size(tried) <= self.most:
                kept, best = [shot, *kept], tried
        return best


class EncodedRows:
    """Encoded rows in memory, with the interface of `Tokens` that batches need. rows: (ids, labels)."""

    def __init__(self, rows: Sequence[tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]]) -> None:
        self.rows = rows
        self.lengths = np.array([len(ids) for ids, _ in rows], np.int64)

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """input_ids and labels of one row, int32, shape (length,)."""
        ids, labels = self.rows[index]
        return np.array(ids, np.int32), np.array(labels, np.int32)


def shots_from(dataset: Path, encoder: AnyEncoder, seed: int, context: int | None, room: int, count: int) -> Shots:
    """Shots from the training rows in `dataset`.

    Args:
        context: tokens that the model sees. room: of them, kept for the answer.
    """
    kind = ChatShots if isinstance(encoder, ChatEncoder) else Shots
    return kind(encoder, list(read_examples(dataset, "train")), count, seed, context or 2**31, room)
