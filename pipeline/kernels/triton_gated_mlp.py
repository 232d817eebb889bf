"""Triton kernels of the gated MLP; the formula and the plain version are in gated_mlp.py. Arithmetic is in float32.

Where rows are quantized, too, a program handles a whole row, whose scale it needs: it reads what it has written again,
from the cache. A whole row in registers would leave room for one program at a time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.triton_fp8 import empty_fp8, fp8_pointers, store_written_fp8
from pipeline.kernels.types import Fp8Rows

BLOCK = 2048  # values that a program works on at a time


@triton.jit
def _activation(g, ACTIVATION: tl.constexpr):
    """act(g) and act'(g)."""
    if ACTIVATION == 0:
        s = 1.0 / (1.0 + tl.exp(-g))
        return g * s, s * (1.0 + g * (1.0 - s))
    else:  # noqa: RET505 (Triton compiles only one branch)
        z = 0.7978845608028654 * (g + 0.044715 * g * g * g)
        t = 2.0 / (1.0 + tl.exp(-2.0 * z)) - 1.0
        slope = 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * g * g)
        return 0.5 * g * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * g * (1.0 - t * t) * slope


@triton.jit
def _gated_mlp_kernel(
    gate_up, h, q, scales, size, span, ACTIVATION: tl.constexpr, WITH_FP8: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    gate_up += row * 2 * size
    h += row * size
    first = tl.program_id(1) * span
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(first, first + span, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < size
        g = tl.load(gate_up + column, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(gate_up + size + column, mask=inside, other=0.0).to(tl.float32)
        value, _ = _activation(g, ACTIVATION)
        value = (value * u).to(h.dtype.element_ty)
        tl.store(h + column, value, mask=inside)
        largest = tl.maximum(largest, tl.abs(value.to(tl.float32)))
    if WITH_FP8:
        store_written_fp8(h, size, largest, q + row * size, scales + row, BLOCK)


def _row_programs(size: int, fp8: bool) -> tuple[int, int]:
    """Programs per row, and values of each."""
    return (1, triton.cdiv(size, BLOCK) * BLOCK) if fp8 else (triton.cdiv(size, BLOCK), BLOCK)


def gated_mlp(gate_up: torch.Tensor, activation: int, fp8: bool) -> tuple[torch.Tensor, Fp8Rows | None]:
    """As `gated_mlp.forward`."""
    tokens, size = len(gate_up), gate_up.shape[1] // 2
    h = torch.empty((tokens, size), dtype=gate_up.dtype, device=gate_up.device)
    quantized = empty_fp8(tokens, size, gate_up, fp8)
    programs, span = _row_programs(size, fp8)
    _gated_mlp_kernel[(tokens, programs)](
        gate_up, h, *fp8_pointers(quantized, h), size, span,
        ACTIVATION=activation, WITH_FP8=fp8, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return h, quantized


@triton.jit
def _gated_mlp_backward_kernel(
    dh, gate_up, d_gate_up, q, scales, size, span, ACTIVATION: tl.constexpr, WITH_FP8: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    dh += row * size
    gate_up += row * 2 * size
    d_gate_up += row * 2 * size
    first = tl.program_id(1) * span
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(first, first + span, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < size
        g = tl.load(gate_up + column, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(gate_up + size + column, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(dh + column, mask=inside, other=0.0).to(tl.float32)
        value, slope = _activation(g, ACTIVATION)
        dg = (d * u * slope).to(d_gate_up.dtype.element_ty)
        du = (d * value).to(d_gate_up.dtype.element_ty)
        tl.store(dh + column, value * u, mask=inside)
        tl.store(d_gate_up + column, dg, mask=inside)
        tl.store(d_gate_up + size + column, du, mask=inside)
        largest = tl.maximum(largest, tl.maximum(tl.abs(dg.to(tl.float32)), tl.abs(du.to(tl.float32))))
    if WITH_FP8:  # one scale for both halves
        store_written_fp8(d_gate_up, 2 * size, largest, q + row * 2 * size, scales + row, BLOCK)


def gated_mlp_backward(
    grad: torch.Tensor, gate_up: torch.Tensor, activation: int, fp8: bool
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:
    """As `gated_mlp.backward`; h is written over `grad`."""
    tokens, size = grad.shape
    d_gate_up = torch.empty_like(gate_up)
    quantized = empty_fp8(tokens, 2 * size, gate_up, fp8)
    programs, span = _row_programs(size, fp8)
    _gated_mlp_backward_kernel[(tokens, programs)](
        grad, gate_up, d_gate_up, *fp8_pointers(quantized, d_gate_up), size, span,
        ACTIVATION=activation, WITH_FP8=fp8, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return d_gate_up, grad, quantized
