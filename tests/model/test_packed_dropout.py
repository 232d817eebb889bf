"""Dropout in the packed model: by seed, another one for every adapter, and off where it is to be off."""

from __future__ import annotations

import pytest
import torch

from pipeline.config.schema import Adapter
from pipeline.kernels import dropout
from pipeline.kernels.types import DropoutSeed
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens
from tests.helpers.packed_models import (
    LONGEST,
    Gradients,
    adapted,
    assert_same,
    packed_pass,
    plain_pass,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_dropout_is_off_in_without_dropout(tokens: Tokens, kind: str) -> None:
    model = adapted(kind, adapter=Adapter(r=4, dropout=0.5))
    wanted = plain_pass(model.eval(), tokens)
    fast = PackedModel(model, LONGEST)
    with fast.without_dropout():
        assert_same(packed_pass(fast, model, tokens), wanted)
    with pytest.raises(ZeroDivisionError), fast.without_dropout():
        raise ZeroDivisionError
    assert all(linear.has_dropout for linear in fast.linears)
    assert packed_pass(fast, model, tokens)[0] != pytest.approx(wanted[0], rel=1e-5)


def test_dropout_depends_on_the_seed_and_not_on_what_is_kept(tokens: Tokens) -> None:
    model = adapted(adapter=Adapter(r=4, dropout=0.5))
    fast = PackedModel(model, LONGEST)

    def seeded(seed: int, recompute: bool) -> tuple[float, Gradients]:
        torch.manual_seed(seed)
        fast.recompute = recompute
        return packed_pass(fast, model, tokens)

    first = seeded(7, False)
    assert_same(seeded(7, False), first, 0, 0)
    assert_same(seeded(7, True), first)
    assert seeded(8, False)[0] != first[0]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_every_adapter_drops_something_else(tokens: Tokens, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed for each of the fourteen, and the same ones on the way back."""
    seeds: list[tuple[int, int]] = []
    drop = dropout.drop

    def noted(x: torch.Tensor, share: float, seed: DropoutSeed) -> torch.Tensor:
        seeds.append((int(seed.value), seed.index))
        return drop(x, share, seed)

    monkeypatch.setattr(dropout, "drop", noted)
    fast = PackedModel(adapted(kind, adapter=Adapter(r=4, dropout=0.5)), LONGEST)
    loss = fast.loss_sum(fast.prepare(Packer(tokens, [], 1000).pack(range(14))))
    forward = set(seeds)
    assert len(seeds) == len(forward) == 14
    loss.backward()
    assert set(seeds) == forward
