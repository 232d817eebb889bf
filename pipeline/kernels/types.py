"""What kernels hand each other: rows in 8-bit floats, and what a dropout mask is drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0  # the largest e4m3
MIN_SCALE = 1e-12  # rows of zeros stay zeros


@dataclass(frozen=True)
class Fp8Rows:
    """A matrix in e4m3 with one scale a row. values: e4m3, (rows, columns), contiguous. scales: float32, (rows, 1)."""

    values: torch.Tensor
    scales: torch.Tensor

    def dequantize(self) -> torch.Tensor:
        """values * scales, in float32."""
        return self.values.float() * self.scales


@dataclass(frozen=True)
class DropoutSeed:
    """Identifies one dropout mask. It lives on the device, where a replayed CUDA graph reads a new value.

    value: int64, (1,), drawn once for a forward pass. index: number of the mask within that pass.
    """

    value: torch.Tensor
    index: int = 0

    def child(self, n: int) -> DropoutSeed:
        """The n-th seed below this one. Unique if n <= 6 at every level but the first."""
        return DropoutSeed(self.value, self.index * 8 + n + 1)


@dataclass(frozen=True)
class DropoutGroup:
    """Adapters of one input, with equal rank and dropout, that one kernel launch handles.

    rows: their rows of the stacked A. count: number of adapters; the n-th uses the mask `seed.child(first + n)`.
    dropout: probability.
    """

    rows: slice
    count: int
    dropout: float
    first: int
