"""Rotary positions against complex numbers, and the Triton kernel against the plain version."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.kernels import rotary
from tests.helpers.tensors import BOUNDS, DEVICE, DTYPES, assert_close, assert_same_results


def angles(tokens: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Angles of half a head, and cos and sin as transformers gives them: twice bucket by bucket."""
    angle = torch.randn(tokens, size // 2)
    return angle, torch.cat([angle, angle], 1).cos(), torch.cat([angle, angle], 1).sin()


def turned(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Each half of a head is the real and the imaginary part of numbers that are turned by the angle."""
    real, imaginary = x.double().chunk(2, dim=-1)
    found = torch.complex(real, imaginary) * torch.exp(1j * angle.double())[:, None]
    return torch.cat([found.real, found.imag], dim=-1)


def test_rotary() -> None:
    angle, cos, sin = angles(5, 8)
    whole = torch.randn(5, 9, 8)
    x = whole.clone()
    rotary.rotate(x[:, :6], cos, sin)  # a view: q and k of q, k, v
    assert_close(x[:, :6], turned(whole[:, :6], angle))
    assert torch.equal(x[:, 6:], whole[:, 6:])
    rotary.rotate(x[:, :6], cos, sin, inverse=True)
    assert_close(x, whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("back", [False, True])
def test_triton_rotary(triton_rotary: Any, dtype: torch.dtype, back: bool) -> None:
    _, cos, sin = (t.to(dtype) for t in angles(7, 24))
    x = torch.randn(7, 5, 24).to(dtype)
    assert_same_results(triton_rotary.rotate, rotary.rotate, x, cos, sin, back)
    view = torch.randn(7, 9, 24, device=DEVICE).to(dtype)
    wanted = view.cpu()
    triton_rotary.rotate(view[:, :5], cos.to(DEVICE), sin.to(DEVICE), back)
    rotary.rotate(wanted[:, :5], cos, sin, back)
    assert_close(view, wanted, BOUNDS[dtype])
