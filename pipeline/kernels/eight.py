"""Values in 8-bit floats (e4m3) with one scale a row: q(x) = e4m3(x / s),  s = max|x| / 448 of each row."""

from __future__ import annotations

from dataclasses import dataclass

import torch

KIND = torch.float8_e4m3fn
MOST = 448.0  # the largest e4m3
LEAST = 1e-12  # the smallest scale: rows of zeros stay zeros


@dataclass(frozen=True)
class Eight:
    """values: e4m3, (rows, columns), contiguous. scales: float32, (rows, 1)."""

    values: torch.Tensor
    scales: torch.Tensor

    def numbers(self) -> torch.Tensor:
        """What it stands for, in float32."""
        return self.values.float() * self.scales


def quantise(x: torch.Tensor) -> Eight:
    """x (rows, columns), with any room behind its rows."""
    if x.is_cuda:
        from pipeline.kernels import gpu

        return Eight(*gpu.quantise(x))
    wide = x.float()
    scale = (wide.abs().amax(1, keepdim=True) / MOST).clamp(min=LEAST)
    return Eight((wide / scale).clamp(-MOST, MOST).to(KIND), scale)
