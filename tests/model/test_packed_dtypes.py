"""The packed model in bf16, in fp8 and on a quantized base, as near to float32 as the plain path."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.load import load_base
from pipeline.model.packed.model import PackedModel
from pipeline.model.packed.support import NotPackable
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens
from tests.helpers.packed_models import (
    LONGEST,
    Gradients,
    adapted,
    assert_same,
    packed_pass,
    plain_pass,
    recomputed_pass,
    stock,
    take_gradients,
    with_trained_lora,
)
from tests.helpers.tiny import make_base, make_config

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    "adapter",
    [{"method": name} for name in ("full", "head", "norms", "ia3")]
    + [{"method": "houlsby", "bottleneck": 8}, {"r": 4, "dora": True}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_own_layers_in_16_bits(tokens: Tokens, adapter: dict[str, Any], again: bool, dtype: torch.dtype) -> None:
    """What is trained stays in float32; as near to float32 as the plain path, both under autocast."""
    model = with_trained_lora(adapters.attach(stock(), Adapter(**adapter), seed=1, added=()))
    for parameter in adapters.trained(model).values():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)  # bottlenecks start at zero
    exact = plain_pass(model, tokens)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    with torch.autocast("cpu", dtype):
        plain = plain_pass(model, tokens)
    fast = PackedModel(model, LONGEST, dtype=dtype)
    ours = recomputed_pass(fast, model, tokens) if again else packed_pass(fast, model, tokens)
    assert all(g.dtype == torch.float32 for g in ours[1].values())
    assert_same(ours, exact, 2e-3, 0.1)
    assert distance(ours[1], exact[1]) < 1.5 * distance(plain[1], exact[1])
    with pytest.raises(NotPackable, match="not plain LoRA"):
        PackedModel(model, LONGEST, fp8=True)


def distance(ours: Gradients, theirs: Gradients) -> float:
    return sum(float((ours[name] - wanted).pow(2).sum()) for name, wanted in theirs.items()) ** 0.5


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen3", "gpt_neox"])
@pytest.mark.parametrize(
    ("dtype", "loss", "gradient"), [(torch.bfloat16, 2e-3, 0.1), (torch.float16, 2e-4, 0.01)], ids=str
)
def test_arithmetic_in_16_bits(tokens: Tokens, kind: str, dtype: torch.dtype, loss: float, gradient: float) -> None:
    """Adapters stay in float32; as near to float32 as the plain path under autocast."""
    model = adapted(kind)
    exact = plain_pass(model, tokens)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    ours = packed_pass(PackedModel(model, LONGEST), model, tokens)
    assert all(g.dtype == torch.float32 for g in ours[1].values())
    assert_same(ours, exact, loss, gradient)


def test_a_gradient_scale_reaches_the_whole_backward_pass(tokens: Tokens) -> None:
    """Loss and gradients do not depend on it, but what fp16 rounds to zero without it is kept."""
    model = adapted()
    exact = plain_pass(model, tokens)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.half()
    fast, errors = PackedModel(model, LONGEST), []
    for small, scale in ((2.0**-22, None), (2.0**-22, 1.0), (1.0, 2.0**4)):
        fast.gradient_scale = None if scale is None else torch.tensor(scale)
        total = torch.zeros(())
        for pack in Packer(tokens, (), 50).packs(range(len(tokens))):
            value = fast.loss_sum(fast.prepare(pack))
            value.backward(torch.tensor(small * (scale or 1.0)))
            total += value.detach()
        ours = take_gradients(model)
        assert float(total) == pytest.approx(exact[0], rel=2e-4)
        size = small * (scale or 1.0)
        errors.append(distance({n: g / size for n, g in ours.items()}, exact[1]))
    assert errors[2] < 0.1 * min(errors[:2])


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_quantised_base_in_fp16(tokens: Tokens, tmp_path: Path, how: str) -> None:
    """Weights that bitsandbytes holds for a compute dtype of fp16."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    results = []
    for dtype in ("fp32", "fp16"):
        config = make_config(tmp_path, base, f"model.quantize={how}", f"model.dtype={dtype}")
        loaded = load_base(config.model, bases.resolve(config.model), config.train.seed)
        model = with_trained_lora(adapters.attach(loaded, Adapter(r=4), seed=1))
        fast = PackedModel(model, LONGEST)
        assert fast.dtype == (torch.float16 if dtype == "fp16" else torch.float32)
        results.append(packed_pass(fast, model, tokens))
    assert_same(results[1], results[0], 1e-3, 0.05)


@pytest.mark.parametrize(("how", "loss", "gradient"), [("nf4", 1e-6, 1e-5), ("int8", 1e-2, 0.2)])
def test_quantised_base(tokens: Tokens, tmp_path: Path, how: str, loss: float, gradient: float) -> None:
    """The same weights as bitsandbytes multiplies with; its int8 also rounds what they are multiplied with."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    config = make_config(tmp_path, base, f"model.quantize={how}")
    model = with_trained_lora(
        adapters.attach(load_base(config.model, bases.resolve(config.model), config.train.seed), Adapter(r=4), seed=1)
    )
    wanted = plain_pass(model, tokens)
    fast = PackedModel(model, LONGEST)
    assert len(fast.blocks) == 2
    for recompute in (False, True):
        fast.recompute = recompute
        assert_same(packed_pass(fast, model, tokens), wanted, loss, gradient)
    again = plain_pass(model, tokens)
    assert_same(again, wanted, 0, 0)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_weights_in_fp8(tokens: Tokens, kind: str) -> None:
    """As far off as rounding to 2^-4 explains; less far from the plain path with the same rounded weights."""
    model = adapted(kind, hidden_size=64, intermediate_size=128)
    exact = plain_pass(copy.deepcopy(model), tokens)
    fast = PackedModel(model, LONGEST, fp8=True)
    ours = packed_pass(fast, model, tokens)
    assert_same(ours, exact, 2e-2, 0.5)
    assert ours[0] != exact[0]
    assert_same(ours, plain_pass(model, tokens), 1e-2, 0.3)
