"""Comparison of tensors, and of a Triton kernel with its plain version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pipeline.kernels.types import Fp8Rows

torch.set_num_threads(1)  # tiny tensors are slower on more

CUDA = torch.cuda.is_available()
CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if CUDA else [])]
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}  # relative, of a kernel against its twin
DEVICE = torch.device("cuda" if CUDA else "cpu")


def leaf(x: torch.Tensor) -> torch.Tensor:
    """A copy in float64 that gradients come to."""
    return x.detach().double().requires_grad_()


def assert_close(ours: torch.Tensor | None, theirs: torch.Tensor | None, bound: float = 2e-6) -> None:
    """Alike up to `bound` of their size as a whole."""
    assert ours is not None
    assert theirs is not None
    assert ours.shape == theirs.shape
    apart = (ours.double().cpu() - theirs.double().cpu()).norm() / theirs.double().norm().cpu().clamp(min=1e-30)
    assert apart <= bound, float(apart)


def assert_same_results(kernel: Callable[..., Any], twin: Callable[..., Any], *inputs: Any) -> None:
    """Runs both on copies of the inputs, the twin on the CPU; compares what they return and what they leave behind."""
    moved = [t.to(DEVICE, copy=True) if isinstance(t, torch.Tensor) else t for t in inputs]
    copied = [t.clone() if isinstance(t, torch.Tensor) else t for t in inputs]
    ours, theirs = kernel(*moved), twin(*copied)
    if ours is None:
        ours, theirs = moved[0], copied[0]  # in place
    bound = BOUNDS[inputs[0].dtype]
    for a, b in zip(*((t,) if isinstance(t, torch.Tensor) else t for t in (ours, theirs)), strict=True):
        if isinstance(b, Fp8Rows):
            assert_close(a.scales, b.scales, bound)
            # A number that the kernel takes unrounded and its twin rounded to bf16 may fall on either side of an 8-bit
            # border, 1/16 apart: one in 20 does. Triton's interpreter cuts off where a card rounds to 8 bits.
            assert_close(a.dequantize(), b.dequantize(), (3e-2 if bound > 1e-6 else 1e-2) if CUDA else 0.13)
        elif b is not None:
            assert_close(a, b, bound)
        else:
            assert a is None
