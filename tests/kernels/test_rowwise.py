"""Norm, gated MLP and cross-entropy against autograd in float64; their Triton kernels against the plain versions."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline.kernels import cross_entropy, gated_mlp, rms_norm
from tests.helpers.tensors import DTYPES, assert_close, assert_same_results, leaf


@pytest.mark.parametrize("room", [0, 8])
@pytest.mark.parametrize("past", [False, True])
def test_norm(room: int, past: bool) -> None:
    x, weight, grad, around = torch.randn(5, 48), torch.randn(48), torch.randn(5, 48), torch.randn(5, 48)
    n, r, small = rms_norm.forward(x, weight, 1e-5, room)
    assert small is None
    wide = leaf(x)
    wanted = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert_close(n, wanted)
    assert n.stride() == (48 + room, 1)
    ((wanted * grad).sum() + (wide * around).sum() * past).backward()
    dx, again, small = rms_norm.backward(grad, x, weight, r, around if past else None)
    assert small is None
    assert_close(dx, wide.grad)
    assert torch.equal(again, n)


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_gate(name: str) -> None:
    gu, grad = torch.randn(5, 60) * 3, torch.randn(5, 30)
    wide = leaf(gu)
    g, u = wide.chunk(2, dim=1)
    h = (F.silu(g) if name == "silu" else F.gelu(g, approximate="tanh")) * u
    assert_close(gated_mlp.forward(gu, gated_mlp.ACTIVATIONS[name])[0], h)
    h.backward(grad)
    dgu, again, _ = gated_mlp.backward(grad.clone(), gu, gated_mlp.ACTIVATIONS[name])
    assert_close(dgu, wide.grad)
    assert_close(again, h)


@pytest.mark.parametrize("rows", [3, 4096])
@pytest.mark.parametrize("trained", [False, True])
def test_head_loss(monkeypatch: pytest.MonkeyPatch, rows: int, trained: bool) -> None:
    """Slices of three positions, of which the last holds one, and all at once; weights, of which one is zero."""
    monkeypatch.setattr(cross_entropy, "SLICE", rows)
    h = torch.randn(7, 16).requires_grad_()
    head = torch.randn(50, 16).requires_grad_(trained)
    targets, weights = torch.tensor([3, 3, 0, 49, 7, 3, 1]), torch.tensor([1.0, 2, 1, 0, 5, 1, 1])
    found = cross_entropy.HeadCrossEntropy.apply(h, head, targets, weights)
    assert found.dtype == torch.float32
    (found / 9).backward()
    wide, wide_head = leaf(h), leaf(head)
    wanted = (F.cross_entropy(wide @ wide_head.t(), targets, reduction="none") * weights).sum()
    (wanted / 9).backward()
    assert_close(found.detach()[None], wanted[None])
    assert_close(h.grad, wide.grad)
    if trained:
        assert_close(head.grad, wide_head.grad)
    else:
        assert head.grad is None


def test_head_loss_in_fp16_keeps_what_a_scale_saves() -> None:
    """With weights of 1e-5 most of the gradient is smaller than fp16's numbers, unless it is scaled before it is
    rounded. What comes out is the same gradient either way."""
    h, head = torch.randn(7, 16), torch.randn(500, 16) / 4
    targets, weights = torch.randint(0, 500, (7,)), torch.full((7,), 1e-5)
    wide = leaf(h.half())
    (F.cross_entropy(wide @ head.half().double().t(), targets, reduction="none") * weights).sum().backward()
    errors = []
    for scale in (None, torch.tensor(2.0**15)):
        low = h.half().requires_grad_()
        total = cross_entropy.HeadCrossEntropy.apply(low, head.half(), targets, weights, scale)
        total.backward(torch.tensor(2.0**15))
        assert low.grad is not None
        assert wide.grad is not None
        errors.append(float((low.grad.double() / 2**15 - wide.grad).norm() / wide.grad.norm()))
    assert errors[1] < 1e-3 < errors[0]


def test_head_loss_of_large_logits() -> None:
    """Neither exp of them nor log of nothing."""
    z = torch.tensor([[1e4, 0.0, -1e4], [-1e4, -1e4, 1e4]])
    total = cross_entropy.loss_and_gradient(z, torch.tensor([1, 2]), torch.ones(2))
    assert float(total) == 1e4
    assert z.tolist() == [[1, -1, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("past", [False, True])
def test_triton_norm(triton_rowwise: Any, dtype: torch.dtype, past: bool) -> None:
    x, weight, grad, around = (torch.randn(*shape).to(dtype) for shape in ((5, 48), (48,), (5, 48), (5, 48)))
    for room, small in ((0, False), (16, False), (0, True)):
        assert_same_results(triton_rowwise.rms_norm, rms_norm.forward, x, weight, 1e-5, room, small)
    _, r, _ = rms_norm.forward(x, weight, 1e-5)
    for small in (False, True):
        assert_same_results(
            triton_rowwise.rms_norm_backward, rms_norm.backward, grad, x, weight, r, around if past else None, small
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", [0, 1])
def test_triton_gate(triton_gated_mlp: Any, dtype: torch.dtype, act: int) -> None:
    gu, grad = torch.randn(3, 2 * 2100).to(dtype), torch.randn(3, 2100).to(dtype)  # more than a program takes
    for small in (False, True):
        assert_same_results(triton_gated_mlp.gated_mlp, gated_mlp.forward, gu, act, small)
        assert_same_results(triton_gated_mlp.gated_mlp_backward, gated_mlp.backward, grad, gu, act, small)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [50, 5000])
@pytest.mark.parametrize("scale", [None, 512.0])
def test_triton_loss(triton_rowwise: Any, words: int, dtype: torch.dtype, scale: float | None) -> None:
    z, targets, weights = torch.randn(6, words).to(dtype), torch.randint(0, words, (6,)), torch.rand(6)
    factor = None if scale is None else torch.tensor(scale)

    def with_gradient(loss_and_gradient: Callable[..., torch.Tensor]) -> Callable[..., tuple[torch.Tensor, ...]]:
        return lambda *args: (loss_and_gradient(*args), args[0])

    kernel, twin = with_gradient(triton_rowwise.loss_and_gradient), with_gradient(cross_entropy.loss_and_gradient)
    assert_same_results(kernel, twin, z, targets, weights, factor)


def test_the_loss_kernel_reads_no_logit_that_another_warp_may_have_overwritten() -> None:
    """The logits are overwritten by their gradients. What the second loop writes was read by the same thread in it, or
    before the first loop, whose reductions are barriers; Triton's interpreter has no warps and would not notice."""
    source = ast.parse(Path(cross_entropy.__file__).with_name("triton_rowwise.py").read_text(encoding="utf-8"))
    (kernel,) = (node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == "_loss_kernel")
    loops = [node for node in kernel.body if isinstance(node, ast.For)]
    alone = [node for part in kernel.body if part not in loops for node in ast.walk(part) if isinstance(node, ast.Call)]
    reads = [node for node in alone if ast.unparse(node) == "tl.load(z + target)"]
    assert len(reads) == 1
    assert len(loops) == 2
    assert reads[0].lineno < loops[0].lineno
