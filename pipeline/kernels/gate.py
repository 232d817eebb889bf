"""The gated product of an MLP (Shazeer 2020): h = act(g) u, where g and u stand side by side.

silu: act(g) = g s(g),       act'(g) = s(g) (1 + g (1 - s(g))),            s = 1 / (1 + exp(-g))
gelu: act(g) = g (1 + t)/2,  act'(g) = (1 + t)/2 + g (1 - t^2) z'/2,       t = tanh z, z = sqrt(2/pi) (g + 0.044715 g^3)
dg = dh u act'(g),  du = dh act(g)
"""

from __future__ import annotations

import math

import torch

from pipeline.kernels.eight import Eight, quantise

ACTS = {"silu": 0, "gelu": 1}  # gelu: the tanh form, as Gemma has it


def _act(g: torch.Tensor, act: int) -> tuple[torch.Tensor, torch.Tensor]:
    """act(g) and act'(g)."""
    if act == ACTS["silu"]:
        s = torch.sigmoid(g)
        return g * s, s * (1 + g * (1 - s))
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (g + 0.044715 * g**3))
    return g * (1 + t) / 2, (1 + t) / 2 + g * (1 - t * t) * c * (1 + 3 * 0.044715 * g * g) / 2


def forward(gu: torch.Tensor, act: int, eight: bool = False) -> tuple[torch.Tensor, Eight | None]:
    """gu (tokens, 2 size): g, then u -> h (tokens, size), and h in 8 bits if that is wanted."""
    if gu.is_cuda:
        from pipeline.kernels import gpu

        return gpu.gate(gu, act, eight)
    g, u = gu.float().chunk(2, dim=1)
    h = (_act(g, act)[0] * u).to(gu.dtype)
    return h, quantise(h) if eight else None


def backward(
    grad: torch.Tensor, gu: torch.Tensor, act: int, eight: bool = False
) -> tuple[torch.Tensor, torch.Tensor, Eight | None]:
    """Gradient of gu, h once more (written over `grad` on a GPU), and that gradient in 8 bits if wanted."""
    if gu.is_cuda:
        from pipeline.kernels import gpu

        return gpu.gate_backward(grad, gu, act, eight)
    g, u = gu.float().chunk(2, dim=1)
    value, slope = _act(g, act)
    d = grad.float()
    dgu = torch.cat([d * u * slope, d * value], dim=1).to(gu.dtype)
    return dgu, (value * u).to(gu.dtype), quantise(dgu) if eight else None
