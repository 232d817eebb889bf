"""Dropout on adapters' inputs: one mask in all three products, by seed alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipeline.kernels import dropout
from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.kernels.lora import StackedLora
from pipeline.kernels.types import DropoutGroup, DropoutSeed
from pipeline.training.self_check import MAX_MASK_ERROR, mask_error
from tests.helpers.lora_layers import dropping, layers, lora_adapter, of
from tests.helpers.tensors import BOUNDS, DEVICE, DTYPES, assert_close


def test_dropout_is_unbiased() -> None:
    linear, x, _ = dropping(0.5)
    ys = torch.stack([linear.forward(x, seed=of(seed))[0] for seed in range(2000)])
    linear.has_dropout = False
    wanted = linear.forward(x)[0]
    off = (ys.mean(0) - wanted) / (ys.std(0) / 2000**0.5).clamp(min=1e-12)
    assert off.abs().max() < 4.5  # standard errors, the largest of 77
    assert torch.equal(ys[0, :, 6:10], wanted[:, 6:10])  # no adapter, nothing to drop


def test_dropout_depends_on_its_seed_alone() -> None:
    linear, x, _ = dropping(0.5)
    first = linear.forward(x, seed=of(3))[0]
    assert torch.equal(linear.forward(x, seed=of(3))[0], first)
    assert not torch.equal(linear.forward(x, seed=of(4))[0], first)
    masks = [dropout.drop(torch.ones_like(x), 0.25, of(3).child(place)) for place in range(50)]
    assert all(set(mask.unique().tolist()) == {0.0, 1 / 0.75} for mask in masks)
    assert torch.stack(masks).mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mask_error_finds_masks_that_differ(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """What a run asks of kernels before it begins: each of the three drawing by itself is found, and a wrong share."""
    frozen = [layer.to(dtype) for layer in layers([False] * 2, (64, 32), 96)]
    adapters = [lora_adapter(4, 64, 2.0, 0.05, 96), lora_adapter(4, 32, 2.0, 0.05, 96)]
    linear = StackedLora(FrozenWeights(frozen, dtype), adapters)
    assert mask_error(linear) < 0.01
    for name in ("project", "add_input_gradient", "weight_gradient"):
        stock = getattr(dropout, name)
        with monkeypatch.context() as broken:
            broken.setattr(dropout, name, lambda *args, stock=stock: stock(*args[:-1], args[-1].child(3)))
            assert mask_error(linear) > 0.2
    with monkeypatch.context() as broken:
        broken.setattr(dropout, "weight_gradient", lambda *_: torch.full_like(linear.a, torch.nan))
        assert math.isnan(mask_error(linear))
    shares = [DropoutGroup(group.rows, group.count, 0.5, group.first) for group in linear.dropout_groups]
    stock = dropout.project
    monkeypatch.setattr(dropout, "project", lambda x, a, groups, seed: stock(x, a, shares, seed))
    assert mask_error(linear) > MAX_MASK_ERROR


@pytest.mark.parametrize("which", range(5))
def test_the_backward_pass_uses_the_same_mask(which: int) -> None:
    """y is linear in x and in each matrix, so a step of any size tells the slope: exact only with the same mask."""
    linear, x, grad = dropping(0.4)
    _, kept = linear.forward(x, seed=of(5))
    dx, p = linear.backward_input(grad, kept)
    slopes = [dx, *linear.backward_parameters(grad, x, p, kept)]
    inputs = [x, *linear.parameters]
    before = linear.forward(x, seed=of(5))[0]
    step = torch.randn_like(inputs[which])
    with torch.no_grad():
        inputs[which] += step
    for copy, parameter, scale in linear.copies():
        copy.copy_(parameter.detach() * scale)
    after = linear.forward(x, seed=of(5))[0]
    slope = slopes[which]
    assert slope is not None
    assert float(((after - before) * grad).sum()) == pytest.approx(float((slope * step).sum()), rel=1e-10)


def test_equal_adapters_form_one_group() -> None:
    ranks = [slice(0, 4), slice(4, 8)]
    assert dropout.groups_of(ranks, [0.1, 0.1]) == [DropoutGroup(slice(0, 8), 2, 0.1, 0)]
    assert dropout.groups_of(ranks, [0.1, 0.0]) == [
        DropoutGroup(slice(0, 4), 1, 0.1, 0),
        DropoutGroup(slice(4, 8), 1, 0.0, 1),
    ]
    assert dropout.groups_of([slice(0, 66), slice(66, 68)], [0.1, 0.1]) == [
        DropoutGroup(slice(0, 64), 1, 0.1, 0),
        DropoutGroup(slice(64, 66), 1, 0.1, 0),
        DropoutGroup(slice(66, 68), 1, 0.1, 1),
    ]
    assert dropout.groups_of([], []) == []


def dropped(kernels: Any, x: torch.Tensor, share: float, seed: DropoutSeed, place: int = 0) -> torch.Tensor:
    """drop(x), as the kernels draw it: its product with the unit matrix, a piece of the rows of that at a time."""
    unit = torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    group = DropoutGroup(slice(0, 64), 1, share, place)
    parts = []
    for part in unit.split(64):
        parts.append(x.new_empty(len(x), len(part)))
        kernels.project(parts[-1], x, part, group, seed)
    return torch.cat(parts, dim=1)


def test_triton_dropout(triton_dropout: Any) -> None:
    """A share of zeros, the rest larger by as much; by seed and place alone."""
    x = torch.randn(512, 400, device=DEVICE)[:, :300]
    seed = DropoutSeed(torch.tensor([1 << 39], device=DEVICE))
    first = dropped(triton_dropout, x, 0.25, seed.child(0))
    gone = first == 0
    assert_close(first[~gone], (x / 0.75)[~gone], 1e-6)
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.0045)  # four standard errors
    assert float(gone.float().mean(0).std()) == pytest.approx((0.25 * 0.75 / 512) ** 0.5, rel=0.2)
    assert float(gone.float().mean(1).std()) == pytest.approx((0.25 * 0.75 / 300) ** 0.5, rel=0.2)
    assert torch.equal(dropped(triton_dropout, x, 0.25, seed.child(0)), first)
    for other in (seed.child(1), DropoutSeed(seed.value + 1).child(0)):
        both = gone & (dropped(triton_dropout, x, 0.25, other) == 0)
        assert float(both.float().mean()) == pytest.approx(0.25**2, abs=0.0027)
    for shift in (1, 2, 32, 64, 96, 128):  # the halves of a number, the four of a counter, and its neighbours
        both = gone[:, shift:] & gone[:, :-shift]
        assert float(both.float().mean()) == pytest.approx(0.25**2, abs=0.0035)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rank", "count"), [(3, 1), (16, 2), (20, 3)])
def test_triton_products(triton_dropout: Any, dtype: torch.dtype, rank: int, count: int) -> None:
    """More tokens than a program adds up, more columns than a tile has, inputs with room behind their rows."""
    tokens, size, share = triton_dropout.CHUNK + 70, 150, 0.3
    seed, group = (
        DropoutSeed(torch.tensor([7], device=DEVICE), 5),
        DropoutGroup(slice(0, count * rank), count, share, 1),
    )
    wide = torch.randn(tokens, size + 9).to(DEVICE, dtype)
    x, a = wide[:, :size], torch.randn(count * rank, size).to(DEVICE, dtype)
    p = torch.randn(tokens, count * rank + 8).to(DEVICE, dtype)[:, 8:]
    kept = [dropped(triton_dropout, torch.ones_like(x), share, seed, 1 + n).double() for n in range(count)]
    parts = [slice(n * rank, n * rank + rank) for n in range(count)]
    bound = 2 * BOUNDS[dtype]

    t = torch.zeros(tokens, count * rank + 5).to(DEVICE, dtype)
    triton_dropout.project(t[:, 5:], x, a, group, seed)
    assert_close(t[:, 5:], torch.cat([(x * k) @ a[r].double().t() for k, r in zip(kept, parts, strict=True)], 1), bound)
    assert not t[:, :5].any()

    dx = torch.randn(tokens, size).to(DEVICE, dtype)
    wanted = dx.double() + sum((p[:, r].double() @ a[r].double()) * k for k, r in zip(kept, parts, strict=True))
    triton_dropout.add_input_gradient(dx, p, a, group, seed)
    assert_close(dx, wanted, bound)

    da = triton_dropout.weight_gradient(p, x, group, seed)
    assert da.dtype == torch.float32
    assert_close(da, torch.cat([p[:, r].double().t() @ (x * k) for k, r in zip(kept, parts, strict=True)]), bound)
