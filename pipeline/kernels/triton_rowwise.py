"""Triton kernels that work on rows: norm, gated MLP, cross-entropy, quantization.

The formula and the plain version of each are in the file named after it (rms_norm.py, gated_mlp.py, cross_entropy.py,
fp8_rows.py). Arithmetic is in float32 whatever the dtypes. One program handles one token unless stated otherwise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipeline.kernels.types import FP8, Fp8Rows


def _block(size: int) -> tuple[int, int]:
    """A power of two that holds a whole row, and warps for it."""
    block = int(triton.next_power_of_2(size))
    return block, min(16, max(1, block // 512))


@triton.jit
def _store_fp8_row(value, column, inside, q, scale):
    """Stores a row in 8 bits, and its scale. value: the whole row."""
    step = tl.maximum(tl.max(tl.abs(value), 0) / 448.0, 1e-12)
    tl.store(scale, step)
    tl.store(q + column, tl.minimum(tl.maximum(value / step, -448.0), 448.0).to(q.dtype.element_ty), mask=inside)


def _empty_fp8(tokens: int, size: int, like: torch.Tensor, fp8: bool) -> Fp8Rows | None:
    if not fp8:
        return None
    values = torch.empty((tokens, size), dtype=FP8, device=like.device)
    return Fp8Rows(values, torch.empty((tokens, 1), dtype=torch.float32, device=like.device))


def _pointers(quantized: Fp8Rows | None, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a kernel stores the quantized rows; any tensor if it does not."""
    return (other, other) if quantized is None else (quantized.values, quantized.scales)


# --- norm


@triton.jit
def _norm_kernel(x, w, n, r, q, scales, size, eps, x_row, n_row, WITH_FP8: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    wide = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    root = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    weight = tl.load(w + column, mask=inside, other=0.0).to(tl.float32)
    value = wide * root * weight
    tl.store(n + row * n_row + column, value, mask=inside)
    tl.store(r + row, root)
    if WITH_FP8:
        _store_fp8_row(value, column, inside, q + row * size, scales + row)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, spare_columns: int, fp8: bool
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:
    """As `rms_norm.forward`."""
    tokens, size = x.shape
    n = torch.empty((tokens, size + spare_columns), dtype=x.dtype, device=x.device)[:, :size]
    r = torch.empty(tokens, dtype=torch.float32, device=x.device)
    block, warps = _block(size)
    quantized = _empty_fp8(tokens, size, x, fp8)
    _norm_kernel[(tokens,)](
        x, weight, n, r, *_pointers(quantized, r), size, eps, x.stride(0), n.stride(0),
        WITH_FP8=fp8, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return n, r, quantized


@triton.jit
def _norm_backward_kernel(
    dn, x, w, r, residual_grad, dx, n, q, scales, size, WITH_RESIDUAL: tl.constexpr, WITH_FP8: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    root = tl.load(r + row)
    unit = tl.load(x + row * size + column, mask=inside, other=0.0).to(tl.float32) * root
    weight = tl.load(w + column, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(dn + row * size + column, mask=inside, other=0.0).to(tl.float32) * weight
    dx_row = root * (g - unit * (tl.sum(g * unit, 0) / size))
    if WITH_RESIDUAL:
        dx_row += tl.load(residual_grad + row * size + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + row * size + column, dx_row, mask=inside)
    tl.store(n + row * size + column, unit * weight, mask=inside)
    if WITH_FP8:
        _store_fp8_row(dx_row, column, inside, q + row * size, scales + row)


def rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, r: torch.Tensor, residual_grad: torch.Tensor | None,
    fp8: bool,
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:  # fmt: skip
    """As `rms_norm.backward`; dx is written over `grad`."""
    x = x.contiguous()
    tokens, size = x.shape
    n = torch.empty_like(x)
    block, warps = _block(size)
    quantized = _empty_fp8(tokens, size, x, fp8)
    _norm_backward_kernel[(tokens,)](
        grad, x, weight, r, grad if residual_grad is None else residual_grad, grad, n, *_pointers(quantized, r), size,
        WITH_RESIDUAL=residual_grad is not None, WITH_FP8=fp8, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return grad, n, quantized


# --- gated MLP


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
    gate_up, h, q, scales, size, ACTIVATION: tl.constexpr, WITH_FP8: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    g = tl.load(gate_up + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gate_up + row * 2 * size + size + column, mask=inside, other=0.0).to(tl.float32)
    value, _ = _activation(g, ACTIVATION)
    value = value * u
    tl.store(h + row * size + column, value, mask=inside)
    if WITH_FP8:
        _store_fp8_row(value, column, inside, q + row * size, scales + row)


def _row_programs(size: int, fp8: bool) -> tuple[int, int, int]:
    """Programs per row, values per program, warps. A row that is quantized needs its scale, hence a single program."""
    block, warps = _block(size) if fp8 else (2048, 8)
    return triton.cdiv(size, block), block, warps


def gated_mlp(gate_up: torch.Tensor, activation: int, fp8: bool) -> tuple[torch.Tensor, Fp8Rows | None]:
    """As `gated_mlp.forward`."""
    tokens, size = len(gate_up), gate_up.shape[1] // 2
    h = torch.empty((tokens, size), dtype=gate_up.dtype, device=gate_up.device)
    quantized = _empty_fp8(tokens, size, gate_up, fp8)
    programs, block, warps = _row_programs(size, fp8)
    _gated_mlp_kernel[(tokens, programs)](
        gate_up, h, *_pointers(quantized, h), size, ACTIVATION=activation, WITH_FP8=fp8, BLOCK=block, num_warps=warps
    )
    return h, quantized


@triton.jit
def _gated_mlp_backward_kernel(
    dh, gate_up, d_gate_up, q, scales, size, ACTIVATION: tl.constexpr, WITH_FP8: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    g = tl.load(gate_up + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gate_up + row * 2 * size + size + column, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(dh + row * size + column, mask=inside, other=0.0).to(tl.float32)
    value, slope = _activation(g, ACTIVATION)
    dg = d * u * slope
    du = d * value
    tl.store(dh + row * size + column, value * u, mask=inside)
    tl.store(d_gate_up + row * 2 * size + column, dg, mask=inside)
    tl.store(d_gate_up + row * 2 * size + size + column, du, mask=inside)
    if WITH_FP8:  # one scale for both halves
        step = tl.maximum(tl.maximum(tl.max(tl.abs(dg), 0), tl.max(tl.abs(du), 0)) / 448.0, 1e-12)
        tl.store(scales + row, step)
        dg = tl.minimum(tl.maximum(dg / step, -448.0), 448.0)
        du = tl.minimum(tl.maximum(du / step, -448.0), 448.0)
        tl.store(q + row * 2 * size + column, dg.to(q.dtype.element_ty), mask=inside)
        tl.store(q + row * 2 * size + size + column, du.to(q.dtype.element_ty), mask=inside)


def gated_mlp_backward(
    grad: torch.Tensor, gate_up: torch.Tensor, activation: int, fp8: bool
) -> tuple[torch.Tensor, torch.Tensor, Fp8Rows | None]:
    """As `gated_mlp.backward`; h is written over `grad`."""
    tokens, size = grad.shape
    d_gate_up = torch.empty_like(gate_up)
    quantized = _empty_fp8(tokens, 2 * size, gate_up, fp8)
    programs, block, warps = _row_programs(size, fp8)
    _gated_mlp_backward_kernel[(tokens, programs)](
        grad, gate_up, d_gate_up, *_pointers(quantized, d_gate_up), size,
        ACTIVATION=activation, WITH_FP8=fp8, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return d_gate_up, grad, quantized


# --- cross-entropy


@triton.jit
def _loss_kernel(
    z, targets, weights, losses, scale, WITH_SCALE: tl.constexpr, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    z += row * VOCABULARY
    target = tl.load(targets + row)
    weight = tl.load(weights + row)
    # Read here: after the last reduction warps are not synchronized, and another one may already have overwritten it.
    target_logit = tl.load(z + target).to(tl.float32)
    maximum = -float("inf")
    total = 0.0
    for start in range(0, VOCABULARY, BLOCK):  # softmax in one pass (Milakov and Gimelshein 2018)
        column = start + tl.arange(0, BLOCK)
        part = tl.load(z + column, mask=column < VOCABULARY, other=-float("inf")).to(tl.float32)
        new = tl.maximum(maximum, tl.max(part, 0))
        total = total * tl.exp(maximum - new) + tl.sum(tl.exp(part - new), 0)
        maximum = new
    log_sum = maximum + tl.log(total)
    tl.store(losses + row, weight * (log_sum - target_logit))
    if WITH_SCALE:
        weight *= tl.load(scale)
    for start in range(0, VOCABULARY, BLOCK):
        column = start + tl.arange(0, BLOCK)
        part = tl.load(z + column, mask=column < VOCABULARY, other=-float("inf")).to(tl.float32)
        slope = tl.exp(part - log_sum) - tl.where(column == target, 1.0, 0.0)
        tl.store(z + column, slope * weight, mask=column < VOCABULARY)


def loss_and_gradient(
    z: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """As `cross_entropy.loss_and_gradient`."""
    losses = torch.empty(len(z), dtype=torch.float32, device=z.device)
    _loss_kernel[(len(z),)](
        z, targets, weights, losses, weights if scale is None else scale,
        WITH_SCALE=scale is not None, VOCABULARY=z.shape[1], BLOCK=4096, num_warps=8,
    )  # fmt: skip
    return losses.sum()


# --- quantization


@triton.jit
def _quantize_kernel(x, q, scales, x_row, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_row
    maximum = 0.0
    for start in range(0, SIZE, BLOCK):
        column = start + tl.arange(0, BLOCK)
        part = tl.load(x + column, mask=column < SIZE, other=0.0).to(tl.float32)
        maximum = tl.maximum(maximum, tl.max(tl.abs(part), 0))
    scale = tl.maximum(maximum / 448.0, 1e-12)
    tl.store(scales + row, scale)
    for start in range(0, SIZE, BLOCK):  # the second read comes from the cache
        column = start + tl.arange(0, BLOCK)
        part = tl.load(x + column, mask=column < SIZE, other=0.0).to(tl.float32)
        part = tl.minimum(tl.maximum(part / scale, -448.0), 448.0)
        tl.store(q + row * SIZE + column, part.to(q.dtype.element_ty), mask=column < SIZE)


def quantize_rows(x: torch.Tensor) -> Fp8Rows:
    """As `fp8_rows.quantize_rows`."""
    rows, size = x.shape
    quantized = Fp8Rows(
        torch.empty((rows, size), dtype=FP8, device=x.device),
        torch.empty((rows, 1), dtype=torch.float32, device=x.device),
    )
    block = min(8192, int(triton.next_power_of_2(size)))
    _quantize_kernel[(rows,)](
        x, quantized.values, quantized.scales, x.stride(0), SIZE=size, BLOCK=block, num_warps=max(1, block // 512)
    )
    return quantized
