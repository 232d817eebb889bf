"""The held-out rows of a run that are measured: tokens for the loss, examples for the answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.evaluation.shots import Shots
from pipeline.prompt.tokens import Tokens, example_id
from pipeline.run.folder import HELD_OUT


@dataclass(frozen=True)
class HeldOutRows:
    """The measured rows of one split.

    Attributes:
        tokens: of the whole split; its first `count` rows are measured.
        examples: the first rows of the split, which an evaluation answers.
        exact: the first rows with one right answer, which an export answers.
        by_id: examples of the measured rows of `tokens`.
    """

    tokens: Tokens
    count: int
    examples: Sequence[Example]
    exact: Sequence[Example]
    by_id: dict[str, Example]

    def encoded(self, shots: Shots | None) -> tuple[Any, Sequence[int]]:
        """Tokens and the indices of the measured rows in them; with examples before each row where `shots` is given."""
        rows = range(self.count)
        if shots is None:
            return self.tokens, rows
        return shots.tokens([self.by_id[example_id(name)] for name in self.tokens.names_of(rows)]), rows


def held_out_rows(dataset: Path, tokens: Path, rows: int) -> dict[str, HeldOutRows]:
    """The splits that have rows: `val` with at most `rows` of them, `holdout` with half as many.

    Args:
        dataset, tokens: folders of the run.
    """
    splits = {}
    for split in HELD_OUT:
        encoded = Tokens(tokens / f"{split}.arrow")
        limit = rows if split == "val" else (rows + 1) // 2
        count = min(len(encoded), limit)
        if count:
            wanted = set(map(example_id, encoded.names_of(range(count))))
            by_id = {e.id: e for e in read_examples(dataset, split) if e.id in wanted}
            exact = itertools.islice((e for e in read_examples(dataset, split) if e.exact), limit)
            first = list(read_examples(dataset, split, limit))
            splits[split] = HeldOutRows(encoded, count, first, list(exact), by_id)
    return splits
