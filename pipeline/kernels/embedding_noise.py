"""Uniform noise on embeddings, computed from a key for each token instead of a generator's state.

    x = hash(hash(column) ^ low half of the key),   u = hash(x + high half) in (-1, 1),   noise = scale / sqrt(size) u

So a replayed CUDA graph draws new noise from new keys, and a CPU and a card draw the same. hash is `lowbias32` of
Chris Wellons' hash-prospector, with the arithmetic of 32 bits done in 64, where no product overflows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

MASK = 0xFFFFFFFF
FACTORS = 0x7FEB352D, 0x846CA68B - (1 << 32)  # equal modulo 2^32, and a 32-bit number times them stays in 64 bits
NUMBERS = 1 << 24  # at once, of 8 bytes


@dataclass(frozen=True)
class EmbeddingNoise:
    """keys: int64, (..., tokens). scales: float32, of the same shape: the largest noise times sqrt(size)."""

    keys: torch.Tensor
    scales: torch.Tensor

    def values(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """The noise, (..., tokens, size)."""
        keys, scales = self.keys.reshape(-1, 1), self.scales.reshape(-1, 1) / math.sqrt(size)
        noise = torch.empty(len(keys), size, dtype=dtype, device=keys.device)
        columns = _hash(torch.arange(size, device=keys.device))
        step = max(1, NUMBERS // size)
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            noise[part] = _uniform(keys[part], columns).mul_(scales[part]).to(dtype)
        return noise.view(*self.keys.shape, size)

    @contextlib.contextmanager
    def added_to(self, embeddings: Any) -> Iterator[None]:
        """Context in which the noise is added to what a module puts out."""
        hook = embeddings.register_forward_hook(
            lambda _, __, output: output + self.values(output.shape[-1], output.dtype)
        )
        try:
            yield
        finally:
            hook.remove()


def _uniform(keys: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """float32 in (-1, 1), (tokens, size). keys: int64, (tokens, 1). columns: hashes, int64, (size,)."""
    x = _hash(columns ^ (keys & MASK))
    x = _hash(x.add_((keys >> 32) & MASK).bitwise_and_(MASK))
    return x.bitwise_right_shift_(8).float().mul_(2.0**-23).add_(2.0**-24 - 1)


def _hash(x: torch.Tensor) -> torch.Tensor:
    """In place; numbers below 2^32 in int64."""
    for shift, factor in zip((16, 15), FACTORS, strict=True):
        x.bitwise_xor_(x >> shift).mul_(factor).bitwise_and_(MASK)
    return x.bitwise_xor_(x >> 16)
