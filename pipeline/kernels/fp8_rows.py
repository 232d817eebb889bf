"""Quantization to 8-bit floats (e4m3), one scale a row: q(x) = e4m3(x / s),  s = max|x| / 448 of each row."""

from __future__ import annotations

import torch

from pipeline.kernels.types import FP8, FP8_MAX, MIN_SCALE, Fp8Rows


def quantize_rows(x: torch.Tensor) -> Fp8Rows:
    """x (rows, columns), any row stride."""
    if x.is_cuda:
        from pipeline.kernels import triton_fp8

        return triton_fp8.quantize_rows(x)
    wide = x.float()
    scale = (wide.abs().amax(1, keepdim=True) / FP8_MAX).clamp(min=MIN_SCALE)
    return Fp8Rows((wide / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale)
