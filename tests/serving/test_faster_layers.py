"""Layers that replace those of transformers compute the same, or are left as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.serving.engine import packed_linear
from pipeline.serving.engine.fused_norm import FusedNorm, fuse_norms
from pipeline.serving.engine.packed_linear import PackedLinear, Packer
from tests.helpers.stored_adapters import plain
from tests.helpers.tiny import make_base


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 8, 100])
def test_packed_layers_compute_the_same(bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(48, 80, bias), torch.nn.Linear(80, 400, bias))
    x = torch.randn(2, rows, 48)
    expected = model(x)
    Packer().pack(model)
    assert [type(layer) for layer in model] == [PackedLinear, PackedLinear]
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_a_weight_is_packed_once() -> None:
    one, two = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    two.weight = one.weight
    packer = Packer()
    (a,), (b,) = packer.pack(torch.nn.Sequential(one)), packer.pack(torch.nn.Sequential(two))
    assert isinstance(a, PackedLinear)
    assert isinstance(b, PackedLinear)
    assert a.packed is b.packed


def test_other_types_and_layers_are_not_packed() -> None:
    class Special(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(Special(8, 8), torch.nn.Linear(8, 8, dtype=torch.bfloat16), torch.nn.LayerNorm(8))
    assert Packer().pack(model) == []


def test_a_torch_without_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("_linear_pointwise")

    monkeypatch.setattr(packed_linear.PackedLinear, "forward", missing)
    assert Packer().pack(torch.nn.Sequential(torch.nn.Linear(8, 8))) == []


@pytest.mark.parametrize(("family", "is_fused"), [("llama", True), ("qwen2", True), ("gemma", False)])
def test_norms(family: str, is_fused: bool, tmp_path: Path) -> None:
    """Gemma multiplies by 1 + weight: its norms stay."""
    model = plain(make_base(tmp_path, model_type=family, head_dim=8))
    for norm in (layer.input_layernorm for layer in model.model.layers):
        torch.nn.init.normal_(norm.weight)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected = model(ids).logits
        fuse_norms(model)
        assert torch.allclose(model(ids).logits, expected, atol=1e-4)
    assert isinstance(model.model.norm, FusedNorm) == is_fused
