"""Keys and values of all running answers of one model: a row for each.

    rows     0 .. n-1    answers that run, packed to the front: a pass over them reads views and copies nothing
    lengths  columns of a row hold the tokens so far; what is behind them is masked, and overwritten later

Rows and columns grow in steps when they are needed and are freed when memory is needed elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

SMALLEST = 64  # columns


def rounded(tokens: int) -> int:
    """Columns for so many tokens: 64, 96, 128, 192, 256, 384, ... so that a row grows seldom and by at most a half."""
    size = SMALLEST
    while size < tokens:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def rounded_rows(rows: int) -> int:
    """The next power of two."""
    return 1 << max(0, rows - 1).bit_length()


@dataclass
class Pass:
    """What one forward pass reads and writes.

    Attributes:
        first, count: its rows. columns: how many columns attention sees.
        positions: (rows, tokens) where the new keys go. row_numbers: (rows,). start: of all rows if they share it.
    """

    first: int
    count: int
    columns: int
    positions: torch.Tensor
    row_numbers: torch.Tensor
    start: int | None


class SlotCache(Cache):
    """A cache of transformers. Layers are created at their first use, by the shape of their keys."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.tensors: dict[int, list[torch.Tensor]] = {}  # of each layer: keys and values, (rows, heads, columns, size)
        self.rows = self.columns = 0
        self.now: Pass | None = None

    def grow(self, rows: int, columns: int) -> bool:
        """Makes room for so many rows and columns; what is stored stays. Returns whether tensors were replaced."""
        rows, columns = max(rows, self.rows), max(columns, self.columns)
        if (rows, columns) == (self.rows, self.columns):
            return False
        for pair in self.tensors.values():
            for i, old in enumerate(pair):
                pair[i] = new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
                new[: old.shape[0], :, : old.shape[2]] = old
                del old, new
        self.rows, self.columns = rows, columns
        return True

    def free(self) -> None:
        """Frees all memory; what is stored is lost."""
        for pair in self.tensors.values():
            pair[:] = [tensor[:0, :, :0].clone() for tensor in pair]
        self.rows = self.columns = 0

    def move(self, source: int, target: int) -> None:
        """Copies a row over another one."""
        for pair in self.tensors.values():
            for tensor in pair:
                tensor[target] = tensor[source]

    def clear(self, row: int) -> None:
        """Fills a row with zeros."""
        for pair in self.tensors.values():
            for tensor in pair:
                tensor[row] = 0

    def bytes_per_token(self) -> int:
        """Of one row; known after a first pass."""
        return sum(t.shape[1] * t.shape[3] * t.element_size() for pair in self.tensors.values() for t in pair)

    def layer(self, index: int, like: torch.Tensor) -> list[torch.Tensor]:
        """Keys and values of a layer. like: (rows, heads, tokens, size)."""
        pair = self.tensors.get(index)
        if pair is None:
            shape = (self.rows, like.shape[1], self.columns, like.shape[3])
            pair = self.tensors[index] = [like.new_zeros(shape), like.new_zeros(shape)]
        return pair

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores the new keys and values; returns those that attention sees, as views."""
        now = self.now
        assert now is not None
        pair = self.layer(layer_idx, key_states)
        views = []
        for tensor, new in zip(pair, (key_states, value_states), strict=True):
            if now.start is not None:
                tensor[now.first : now.first + now.count, :, now.start : now.start + new.shape[2]] = new
            else:  # one token a row
                tensor[now.row_numbers, :, now.positions[:, 0]] = new[:, :, 0]
            views.append(tensor[now.first : now.first + now.count, :, : now.columns])
        return views[0], views[1]

    # What models ask of a cache before they begin; positions and masks are given, so the answers are not used.
    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return 0

    def get_mask_sizes(self, *_: Any, **__: Any) -> tuple[int, int]:
        return (self.now.columns if self.now else 0), 0
