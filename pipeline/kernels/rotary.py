"""Rotary positions (Su et al. 2021), halves of a head as pairs, as LLaMA has them.

    y = x cos + (-x2, x1) sin,   x = (x1, x2)

The gradient is the rotation back: the same with -sin.
"""

from __future__ import annotations

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool = False) -> None:
    """In place. x (tokens, heads, size), any strides but the last; cos, sin (tokens, size)."""
    if x.is_cuda:
        from pipeline.kernels import gpu_rotary

        gpu_rotary.rotate(x, cos, sin, back)
        return
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    s = -sin if back else sin
    x.copy_(x * cos[:, None] + turned * s[:, None])
