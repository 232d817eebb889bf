"""Rotary positions (Su et al. 2021); pairs are the two halves of a head, as in LLaMA.

    y = x cos + (-x2, x1) sin,   x = (x1, x2)

The gradient is the inverse rotation: the same with -sin.
"""

from __future__ import annotations

import torch

from pipeline.kernels.card import runs_kernels


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, inverse: bool = False) -> None:
    """In place. x (tokens, heads, size), any strides but the last; cos, sin (tokens, size)."""
    if runs_kernels(x):
        from pipeline.kernels import triton_rotary

        triton_rotary.rotate(x, cos, sin, inverse)
        return
    half = x.shape[-1] // 2
    swapped = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    s = -sin if inverse else sin
    x.copy_(x * cos[:, None] + swapped * s[:, None])
