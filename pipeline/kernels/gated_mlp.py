"""The gated product of an MLP (Shazeer 2020): h = act(g) u, where gate g and up u are the two halves of one matrix.

silu: act(g) = g s(g),       act'(g) = s(g) (1 + g (1 - s(g))),            s = 1 / (1 + exp(-g))
gelu: act(g) = g (1 + t)/2,  act'(g) = (1 + t)/2 + g (1 - t^2) z'/2,       t = tanh z, z = sqrt(2/pi) (g + 0.044715 g^3)
dg = dh u act'(g),  du = dh act(g)
"""

from __future__ import annotations

import math

import torch

from pipeline.kernels.card import runs_kernels
from pipeline.kernels.fp8_rows import quantize_rows
from pipeline.kernels.types import Fp8Rows

ACTIVATIONS = {"silu": 0, "gelu": 1}  # gelu: the tanh approximation, as in Gemma


def _activation(g: torch.Tensor, activation: int) -> tuple[torch.Tensor, torch.Tensor]:
    """act(g) and act'(g)."""
    if activation == ACTIVATIONS["silu"]:
        s = torch.sigmoid(g)
        return g * s, s * (1 + g * (1 - s))
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (g + 0.044715 * g**3))
    return g * (1 + t) / 2, (1 + t) / 2 + g * (1 - t * t) * c * (1 + 3 * 0.044715 * g * g) / 2


def forward(gate_up: torch.Tensor, activation: int, fp8: bool = False) -> tuple[torch.Tensor, Fp8Rows | None]:
    """gate_up (tokens, 2 size) -> h (tokens, size), and with `fp8` also h quantized."""
    if runs_kernels(gate_up):
        from pipeline.kernels import triton_gated_mlp

        return triton_gated_mlp.gated_mlp(gate_up, activation, fp8)
    g, u = gate_up.float().chunk(2, dim=1)
    h = (_activation(g, activation)[0] * u).to(gate_up.dtype)
    return h, quantize_rows(h) if fp8 else None


def backward(
    grad: torch.Tensor, gate_up: torch.Tensor, activation: int, fp8: bool = False
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:
    """Gradient of gate_up, h recomputed (written over `grad` on CUDA), and with `fp8` that gradient quantized."""
    if runs_kernels(gate_up):
        from pipeline.kernels import triton_gated_mlp

        return triton_gated_mlp.gated_mlp_backward(grad, gate_up, activation, fp8)
    g, u = gate_up.float().chunk(2, dim=1)
    act, slope = _activation(g, activation)
    dh = grad.float()
    d_gate_up = torch.cat([dh * u * slope, dh * act], dim=1).to(gate_up.dtype)
    return d_gate_up, (act * u).to(gate_up.dtype), quantize_rows(d_gate_up) if fp8 else None
