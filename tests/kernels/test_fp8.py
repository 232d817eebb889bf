"""Rounding to 8-bit floats, and products of rounded matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.kernels.fp8_rows import quantize_rows
from pipeline.kernels.fp8_weights import Fp8Weights
from tests.helpers.lora_layers import layers
from tests.helpers.tensors import CUDA, DEVICE, assert_close


def test_fp8_rounding() -> None:
    """Three bits behind the leading one, so 2^-4 of a value; below 2^-6 of the scale, steps of 2^-9."""
    x = torch.randn(50, 64) * torch.logspace(-12, 12, 50, base=2)[:, None]
    x[3, :5] = torch.tensor([1e-9, -1e-9, 0, 1, -1])
    x[4] = 0
    small = quantize_rows(x)
    q, scale = small.values, small.scales
    assert (q.dtype, scale.shape) == (torch.float8_e4m3fn, (50, 1))
    off = (q.double() * scale - x).abs()
    assert (off <= torch.maximum(x.abs().double() / 16, scale.double() * 2**-10) * (1 + 1e-6)).all()
    assert torch.equal(q.float().abs().amax(1), torch.tensor([448.0] * 4 + [0.0] + [448.0] * 45))
    assert torch.equal(quantize_rows(x[7:8]).values.float(), q[7:8].float())  # alone as among others


@pytest.mark.parametrize("bias", [False, True])
def test_fp8_products(bias: bool) -> None:
    """Those of the dequantised numbers; the layers' stock forward multiplies with the same weights."""
    made = [layer.float() for layer in layers([bias, False], [6, 4])]
    x, grad, stream = torch.randn(7, 10), torch.randn(7, 10), torch.randn(7, 10)

    def rounded(t: torch.Tensor) -> torch.Tensor:
        small = quantize_rows(t)
        return small.values.double() * small.scales

    weight = torch.cat([layer.weight for layer in made])
    rows, columns = rounded(weight), rounded(weight.t().contiguous()).t()
    shift = torch.cat([made[0].bias, torch.zeros(4)]).double() if bias else 0
    ours = Fp8Weights(made, torch.float32)
    assert_close(ours.forward(x), rounded(x) @ rows.t() + shift)
    assert_close(ours.forward(x, stream.clone()), rounded(x) @ rows.t() + shift + stream)
    assert_close(ours.backward(grad), rounded(grad) @ columns)
    assert_close(torch.cat([layer(x) for layer in made], 1), x.double() @ rows.t() + shift)
    assert sum(layer.weight.numel() for layer in made) == 0
    assert ours.append_columns(3) == 0


@pytest.mark.skipif(not CUDA, reason="Triton's interpreter cuts off where a card rounds to 8 bits")
def test_triton_fp8(triton_fp8: Any) -> None:
    x = torch.randn(5, 300) * torch.logspace(-9, 9, 5, base=2)[:, None]
    wanted = quantize_rows(x)
    ours = triton_fp8.quantize_rows(x.to(DEVICE))
    assert torch.equal(ours.values.float().cpu(), wanted.values.float())
    assert_close(ours.scales, wanted.scales, 1e-7)  # Triton divides to within a last digit


def test_triton_fp8_scales(triton_fp8: Any) -> None:
    """A row longer than a program reads at once, with room behind it."""
    x = torch.randn(3, 9016)
    assert_close(triton_fp8.quantize_rows(x.to(DEVICE)[:, :9000]).scales, quantize_rows(x[:, :9000]).scales, 1e-7)
