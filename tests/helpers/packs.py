"""Rows and packs by hand and at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.prompt.encode import IGNORE, Row
from pipeline.prompt.tokens import Tokens, TokenWriter

A, B = [1, 2, 9], [1, 2, 3, 4]  # two preambles
ROWS = [[*B, 10, 11], [*A, 20, 21, 22], [*B, 10], [7, 8], [*A, 23]]


def tokens_of(folder: Path, rows: Sequence[list[int]], prompts: Sequence[int]) -> Tokens:
    """Rows as the tokens stage writes them, the first `prompts` of their ids without loss."""
    labels = [[IGNORE] * prompt + row[prompt:] for row, prompt in zip(rows, prompts, strict=True)]
    return written(folder, [Row(row, masked, 0, False, False) for row, masked in zip(rows, labels, strict=True)])


def written(folder: Path, rows: Sequence[Row]) -> Tokens:
    writer = TokenWriter(folder / "rows.arrow")
    writer.write(rows, map(str, range(len(rows))))
    writer.close()
    return Tokens(folder / "rows.arrow")


def random_tokens(
    folder: Path, leading: Sequence[list[int]], count: int = 60, seed: int = 0, masked: bool = True
) -> Tokens:
    """Rows that begin with one of the preambles or none; with `masked`, prompts of any length."""
    random = np.random.default_rng(seed)
    rows, prompts = [], []
    for _ in range(count):
        kind = int(random.integers(-1, len(leading)))
        row = [*(leading[kind] if kind >= 0 else []), *random.integers(30, 34, random.integers(1, 12)).tolist()]
        rows.append(row)
        prompts.append(int(random.integers(0, len(row) + 1)) if masked else 0)
    return tokens_of(folder, rows, prompts)
