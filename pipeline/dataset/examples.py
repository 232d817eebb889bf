"""Reads the examples that the data stage wrote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from pipeline.dataset.example import Example
from pipeline.run.files import json_lines


def read_examples(dataset: Path, split: str, limit: int | None = None) -> Iterator[Example]:
    """The examples of a split in their order, one at a time, or the first `limit` of them.

    Args:
        dataset: the run's folder `dataset/`. split: `train`, `val` or `holdout`.
    """
    for row in itertools.islice(json_lines(dataset / f"{split}.jsonl"), limit):
        yield Example.from_dict(row)


def example_rows(dataset: Path, limit: int | None = None) -> list[Example]:
    """Rows that represent the data in checks: from val, or from train if val is empty."""
    return list(read_examples(dataset, "val", limit)) or list(read_examples(dataset, "train", limit))
