"""Small random models of many kinds, and their loss and gradients on the packed and on the plain path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model.loss import loss_sum
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.batch import batches
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens
from tests.helpers.packs import A, B
from tests.helpers.tiny import SHAPE

LONGEST = 20
Gradients = dict[str, torch.Tensor]
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-head-size": {"model_type": "llama", "head_dim": 16, "num_key_value_heads": 4},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": None},
    "gpt_neox": {},
    "phi3": {},
    "cohere": {"logit_scale": 0.25},
    "granite-scaled-logits": {"model_type": "granite", "logits_scaling": 4.0, "embedding_multiplier": 3.0},
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
LONG: dict[str, Any] = {
    "model_type": "phi3", "max_position_embeddings": 512, "original_max_position_embeddings": LONGEST,
    "rope_parameters": {
        "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4,
        "original_max_position_embeddings": LONGEST,
    },
}  # fmt: skip
NESTED = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {**LONG["rope_parameters"], "original_max_position_embeddings": LONGEST + 1},
}


def stock(kind: str = "llama", **shape: Any) -> Any:
    """A random model, its norms and biases too."""
    values = {**SHAPE, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "model_type": kind}
    values |= {**KINDS.get(kind, {}), **shape}
    torch.manual_seed(0)
    name = values.pop("model_type")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **values), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def adapted(kind: str = "llama", added: tuple[int, ...] = (), adapter: Adapter | None = None, **shape: Any) -> Any:
    """With an adapter that has been trained: B is not zero."""
    return with_trained_lora(adapters.attach(stock(kind, **shape), adapter or Adapter(r=4), seed=1, added=added))


def with_trained_lora(model: Any) -> Any:
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


def take_gradients(model: Any) -> Gradients:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def plain_pass(model: Any, tokens: Tokens, rows: Sequence[int] | None = None) -> tuple[float, Gradients]:
    total = 0.0
    for batch in batches(tokens, range(len(tokens)) if rows is None else rows, 80):
        value = loss_sum(model, batch)
        value.backward()
        total += float(value.detach())
    return total, take_gradients(model)


def packed_pass(
    fast: PackedModel, model: Any, tokens: Tokens, capacity: int = 50, leading: Sequence[list[int]] = (A, B)
) -> tuple[float, Gradients]:
    total = 0.0
    for pack in Packer(tokens, leading, capacity).packs(range(len(tokens))):
        value = fast.loss_sum(fast.prepare(pack))
        if value.requires_grad:
            value.backward()
        total += float(value.detach())
    return total, take_gradients(model)


def recomputed_pass(fast: PackedModel, model: Any, tokens: Tokens) -> tuple[float, Gradients]:
    """`packed_pass`, keeping less; transformers' own blocks do so in training only. Each MLP of theirs begins twice."""
    layers = getattr(fast.decoder, "layers", None) or fast.decoder.h
    runs: list[int] = []
    hooks = [layer.mlp.register_forward_pre_hook(lambda *_, n=n: runs.append(n)) for n, layer in enumerate(layers)]
    model.train()
    fast.recompute = True
    found = packed_pass(fast, model, tokens)
    fast.recompute = False
    model.eval()
    for hook in hooks:
        hook.remove()
    packs = sum(1 for _ in Packer(tokens, (A, B), 50).packs(range(len(tokens))))
    assert fast.blocks or len(runs) >= 2 * packs * len(layers) - 1
    return found


def assert_same(
    ours: tuple[float, Gradients], theirs: tuple[float, Gradients], loss: float = 1e-6, gradient: float = 1e-5
) -> None:
    """Up to `loss` and `gradient` of their size, gradients one by one."""
    assert ours[0] == pytest.approx(theirs[0], rel=loss)
    assert ours[1].keys() == theirs[1].keys()
    apart = {name: float((ours[1][name] - wanted).norm() / wanted.norm()) for name, wanted in theirs[1].items()}
    assert max(apart.values()) <= gradient, {name: value for name, value in apart.items() if value > gradient}
