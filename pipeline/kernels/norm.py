"""Root-mean-square norm (Zhang and Sennrich 2019) with a frozen weight.

r = 1 / sqrt(mean(x^2) + eps),  n = x r w
g = dn w,  dx = r (g - x r mean(g x r)) + what flows past the norm
"""

from __future__ import annotations

import torch

from pipeline.kernels.eight import Eight, quantise


def forward(
    x: torch.Tensor, weight: torch.Tensor, eps: float, room: int = 0, eight: bool = False
) -> tuple[torch.Tensor, torch.Tensor, Eight | None]:
    """x (tokens, size), weight (size,) -> n like x, r (tokens,) in float32, and n in 8 bits if that is wanted.

    room: columns left free behind each row of n, for `Linear.forward`.
    """
    if x.is_cuda:
        from pipeline.kernels import gpu

        return gpu.norm(x, weight, eps, room, eight)
    wide = x.float()
    r = torch.rsqrt(wide.pow(2).mean(-1) + eps)
    n = x.new_empty(len(x), x.shape[1] + room)[:, : x.shape[1]]
    n.copy_(wide * r[:, None] * weight.float())
    return n, r, quantise(n) if eight else None


def backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, r: torch.Tensor, past: torch.Tensor | None,
    eight: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, Eight | None]:  # fmt: skip
    """dx, to which `past` (the gradient of the residual stream) is added, n once more, and dx in 8 bits if wanted."""
    if x.is_cuda:
        from pipeline.kernels import gpu

        return gpu.norm_backward(grad, x, weight, r, past, eight)
    unit = x.float() * r[:, None]
    g = grad.float() * weight.float()
    dx = r[:, None] * (g - unit * (g * unit).mean(-1, keepdim=True))
    dx = (dx if past is None else dx + past.float()).to(x.dtype)
    return dx, (unit * weight.float()).to(x.dtype), quantise(dx) if eight else None
