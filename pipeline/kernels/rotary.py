"""Rotary positions (Su et al. 2021), halves of a head as pairs, as LLaMA has them.

    y = x cos + (-x2, x1) sin,   x = (x1, x2)

The gradient is the rotation back: the same with -sin.
"""

from __future__ import annotations

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool = False) -> None:
    """In place. x (tokens, heads, size), any strides but the last; cos, sin (tokens, size)."""
    if x.is_cuda:
        from pipeline.kernels import gpu_attention

        gpu_attention.rotate(x, cos, sin, back)
        return
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    s = -sin if back else sin
    x.copy_(x * cos[:, None] + turned * s[:, None])


def gather_back(
    dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor, late: torch.Tensor | None, front: int,
    cos: torch.Tensor, sin: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Gradient of q, k and v side by side before rotation, (tokens, heads of all three * size), from those behind it.

    late: is added to dq from row `front` on, (some tokens, heads, size).
    """
    if dq.is_cuda and dq.dtype != torch.float32:
        from pipeline.kernels import gpu_attention

        return gpu_attention.gather_back(dq, dk, dv, late, front, cos, sin)
    if late is not None:
        dq[front : front + len(late)] += late
    both = torch.cat([dq, dk], dim=1)
    rotate(both, cos, sin, back=True)
    return torch.cat([both, dv], dim=1).flatten(1)
