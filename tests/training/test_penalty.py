"""Penalties towards the start are the formulas that they say."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model.load import load_folder
from pipeline.run.errors import UserError
from pipeline.training.ewc import without_information
from pipeline.training.penalty import LoraTerm, Penalty, WeightTerm, add_gradients, terms_of
from tests.helpers.tiny import SHAPE


def a_product(start: bool = False, weighted: bool = False) -> LoraTerm:
    torch.manual_seed(3)
    a, b = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((3, 7), (5, 3)))
    begun = (torch.randn(3, 7), torch.randn(5, 3)) if start else None
    factors = (torch.rand(5), torch.rand(7)) if weighted else (None, None)
    return LoraTerm(a, b, 1.7, begun, *factors)


def explicit(part: LoraTerm) -> torch.Tensor:
    """1/2 sum_oi R_o C_i D_oi^2 with the whole matrix D, for autograd."""
    change = part.b @ part.a
    if part.start is not None:
        change = change - part.start[1] @ part.start[0]
    rows = torch.ones(5) if part.rows is None else part.rows
    columns = torch.ones(7) if part.columns is None else part.columns
    return 0.5 * (rows[:, None] * columns * (part.scale * change) ** 2).sum()


@pytest.mark.parametrize(("start", "weighted"), itertools.product((False, True), (False, True)))
def test_product_is_the_explicit_formula(start: bool, weighted: bool) -> None:
    part = a_product(start, weighted)
    value = 0.3 * explicit(part)
    wanted = torch.autograd.grad(value, (part.a, part.b))
    value = value.detach()
    part.a.grad = torch.ones_like(part.a)  # what the loss left there stays
    assert float(part.add_gradient(0.3)) == pytest.approx(float(value), rel=1e-5)
    torch.testing.assert_close(part.a.grad - 1, wanted[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part.b.grad, wanted[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_single_is_the_explicit_formula(weighted: bool) -> None:
    torch.manual_seed(4)
    weight, start = torch.nn.Parameter(torch.randn(4, 3)), torch.randn(4, 3)
    importance = torch.rand(4, 3) if weighted else None
    value = 0.5 * 0.3 * ((1 if importance is None else importance) * (weight - start) ** 2).sum()
    (wanted,) = torch.autograd.grad(value, weight)
    value = value.detach()
    part = WeightTerm(weight, start, importance)
    assert float(part.add_gradient(0.3)) == pytest.approx(float(value), rel=1e-6)
    torch.testing.assert_close(weight.grad, wanted)


def test_what_the_model_is_decides_and_not_how_it_is_factored() -> None:
    part = a_product()
    mixing = torch.randn(3, 3) + 3 * torch.eye(3)
    with torch.no_grad():
        a, b = torch.nn.Parameter(mixing.inverse() @ part.a), torch.nn.Parameter(part.b @ mixing)
    assert float(LoraTerm(a, b, 1.7).add_gradient(1)) == pytest.approx(float(part.add_gradient(1)), rel=1e-4)


def test_parts_of_an_adapter_begin_at_zero(base: Path) -> None:
    """New tokens' rows are trained themselves; A and B together; all at their start."""
    model = adapters.attach(load_folder(base, torch.float32), Adapter(r=4), 1, (7,))
    trained = adapters.trained(model)
    parts = terms_of(model, trained)
    assert {type(p) for p in parts.values()} == {LoraTerm, WeightTerm}
    held = [id(t) for p in parts.values() for t in ((p.a, p.b) if isinstance(p, LoraTerm) else (p.weight,))]
    assert sorted(held) == sorted(id(p) for p in trained.values())
    assert all(p.start is None for p in parts.values() if isinstance(p, LoraTerm))
    assert add_gradients([Penalty(parts, 2.0)]) == {"penalty": 0.0}
    assert all(not w.grad.any() for w in trained.values())
    assert add_gradients([]) == {}


@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")
def test_experts_are_refused() -> None:
    """peft stacks their factors, so that B A is no change of one matrix."""
    shape = {**SHAPE, "vocab_size": 64, "num_local_experts": 2, "num_experts_per_tok": 1, "model_type": "mixtral"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    model = adapters.attach(model, Adapter(r=2), 1, ())
    with pytest.raises(UserError, match="experts"):
        terms_of(model, adapters.trained(model))


def test_an_adapter_that_does_not_begin_at_zero(base: Path) -> None:
    model = adapters.attach(load_folder(base, torch.float32), Adapter(r=4), 1)
    trained = adapters.trained(model)
    for name, weight in trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    parts = terms_of(model, trained)
    assert add_gradients([Penalty(parts, 2.0)])["penalty"] == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        next(iter(trained.values())).add_(0.1)
    assert add_gradients([Penalty(parts, 2.0)])["penalty"] > 0


def test_what_has_no_information_is_named() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    parts = {"up": WeightTerm(weight, torch.zeros(2)), "down": WeightTerm(weight, torch.zeros(2)), "q": a_product()}
    found = {"up": torch.ones(2), "down": torch.zeros(2), "q|rows": torch.ones(5), "q|columns": torch.ones(7)}
    assert without_information(parts, found) == ["down"]
