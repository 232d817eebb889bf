"""Stacked LoRA layers against autograd of the textbook formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.kernels import lora
from pipeline.kernels.adapter_copies import AdapterCopies
from pipeline.kernels.frozen_weights import FrozenWeights
from pipeline.kernels.lora import LoraFunction
from tests.helpers.lora_layers import layers, lora_adapter, stacked, textbook, wanted_of
from tests.helpers.tensors import DEVICE, DTYPES, assert_close, assert_same_results


@pytest.mark.parametrize("biases", [(False, False, False), (True, False, True)])
@pytest.mark.parametrize("ranks", [(2, 2, 2), (3, 1, 2), (3, 0, 1), (0, 0, 2), (0, 0, 0)])
@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_linear(
    biases: tuple[bool, ...], ranks: tuple[int, ...], spare: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack of three layers, some without an adapter or a bias; t in spare columns of the input or in a
    product of its own; B block by block as on CPUs, and as one block matrix as on CUDA."""
    monkeypatch.setattr(lora, "BLOCK_MATRIX_DEVICES", ("cpu",) if device == "cuda" else ())
    frozen = layers(biases)
    adapters = [lora_adapter(r, f.out_features, 0.5 + r) if r else None for f, r in zip(frozen, ranks, strict=True)]
    x, grad = torch.randn(7, 10, dtype=torch.float64).requires_grad_(), torch.randn(7, 15, dtype=torch.float64)
    y = textbook(x, frozen, adapters)
    linear = stacked(frozen, adapters, spare)
    assert linear.spare_columns == (sum(ranks) if spare else 0)
    assert len(linear.blocks) == (1 if device == "cuda" and all(ranks) else len(linear.adapters))
    assert_close(textbook(x, frozen, adapters), y, 0)  # the layers hold views of the stack now, of the same numbers
    assert all(f.weight.untyped_storage().data_ptr() == frozen[0].weight.untyped_storage().data_ptr() for f in frozen)

    given = x.new_empty(7, 10 + linear.spare_columns)[:, :10].copy_(x).detach()
    found, kept = linear.forward(given)
    assert_close(found, y, 1e-12)
    assert_close(linear.output(given, kept), y, 1e-12)
    dx, p = linear.backward_input(grad, kept)
    grads = linear.backward_parameters(grad, given, p, kept)
    for ours, theirs in zip([dx, *grads], wanted_of(y, x, linear, grad), strict=True):
        assert_close(ours, theirs, 1e-12)
    assert linear.backward_input(grad, kept, needs_dx=False)[0] is None


@pytest.mark.parametrize("bias", [False, True])
def test_output_is_added_to_the_residual_stream(bias: bool) -> None:
    frozen, adapters = layers([bias], [6]), [lora_adapter(2, 6, 2.0)]
    x, stream = torch.randn(7, 10, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    found, _ = stacked(frozen, adapters).forward(x, stream.clone())
    assert_close(found, textbook(x, frozen, adapters) + stream, 1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_lora_linear(bias: bool) -> None:
    """As models call it: more than two dimensions, and an input that nobody wants the gradient of."""
    frozen, adapters = layers([bias], [6]), [lora_adapter(2, 6, 2.0)]
    x, grad = torch.randn(2, 3, 10, dtype=torch.float64).requires_grad_(), torch.randn(2, 3, 6, dtype=torch.float64)
    linear = stacked(frozen, adapters)
    y = LoraFunction.apply(x, linear, 0, *linear.parameters)
    wanted = textbook(x, frozen, adapters)
    assert_close(y, wanted, 1e-12)
    grads = wanted_of(wanted, x, linear, grad)
    for ours, theirs in zip(wanted_of(y, x, linear, grad), grads, strict=True):
        assert_close(ours, theirs, 1e-12)
    LoraFunction.apply(x.detach(), linear, 0, *linear.parameters).backward(grad)
    for parameter, wanted_grad in zip(linear.parameters, grads[1:], strict=True):
        assert_close(parameter.grad, wanted_grad, 1e-12)


def test_frozen_weights_of_another_dtype_are_copied() -> None:
    """In full precision, for arithmetic in a lower one: the layers keep theirs."""
    frozen = layers([True, False, False])
    before = [f.weight.clone() for f in frozen]
    made = FrozenWeights(frozen, torch.bfloat16)
    assert made.weight.dtype == made.bias.dtype == torch.bfloat16
    assert all(torch.equal(f.weight, w) for f, w in zip(frozen, before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [3, 16, 40])
def test_triton_low_rank(triton_lora: Any, dtype: torch.dtype, rank: int) -> None:
    y, t, b = torch.randn(70, 600).to(dtype), torch.randn(70, 90).to(dtype), torch.randn(300, rank).to(dtype)

    def run(add: Callable[..., None]) -> Callable[..., torch.Tensor]:
        def into(y: torch.Tensor, t: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            add(y[:, 200:500], t[:, 7 : 7 + rank], b.t())
            return y

        return into

    assert_same_results(run(triton_lora.add_low_rank), run(lora.add_low_rank), y, t, b)
    whole = y[:, :300], t[:, :rank], b.t().contiguous()
    assert_same_results(triton_lora.add_low_rank, lora.add_low_rank, *whole)
    assert_same_results(triton_lora.add_low_rank, lora.add_low_rank, *whole, y[:, 300:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_triton_copies(triton_lora: Any, dtype: torch.dtype) -> None:
    """Into matrices of their own and into others, of several tiles and of one element; then of other numbers."""
    inside = torch.zeros(400, 50, device=DEVICE, dtype=dtype)
    places = [inside[:, 3:19], inside[10:11, 40:41], torch.empty(30, 300, device=DEVICE, dtype=dtype)]
    parameters = [torch.randn(p.shape, device=DEVICE) for p in places]
    made = AdapterCopies(list(zip(places, parameters, (1.0, 0.3, 2.0), strict=True)))
    for _ in range(2):
        made.refresh_in_one_launch()
        for place, parameter, scale in zip(places, parameters, made.scales, strict=True):
            assert torch.equal(place, (parameter * scale).to(dtype))
        for parameter in parameters:
            parameter.normal_()
    assert inside[:, :3].eq(0).all()
    assert inside[:, 19:40].eq(0).all()
    made.sources[0] = parameters[0] + 1
    made.refresh_in_one_launch()
    assert torch.equal(places[0], made.sources[0].to(dtype))
