"""Attention in float32 while a model in bf16 generates on a CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pipeline.model.float32_attention import NAME, STOCK, float32_attention


@pytest.fixture
def low(model: Any) -> Any:
    return copy.deepcopy(model).to(torch.bfloat16).eval()


@torch.inference_mode()
def test_it_is_the_same_attention_with_less_rounding(model: Any, low: Any) -> None:
    """Padded rows, and a step behind a cache; the logits are within what bf16 rounds."""
    ids = torch.arange(5, 45).reshape(2, 20)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    stock = low(input_ids=ids, attention_mask=mask).logits
    with float32_attention(low):
        assert low.config._attn_implementation == NAME
        wide = low(input_ids=ids, attention_mask=mask, use_cache=True)
        step = low(
            input_ids=ids[:, :1],
            attention_mask=torch.cat([mask, mask[:, -1:]], 1),
            past_key_values=wide.past_key_values,
        ).logits
    assert low.config._attn_implementation == STOCK
    assert wide.logits.dtype == step.dtype == torch.bfloat16
    assert wide.past_key_values.layers[0].keys.dtype == torch.bfloat16
    exact = low.float()(input_ids=torch.cat([ids, ids[:, :1]], 1), attention_mask=torch.cat([mask, mask[:, -1:]], 1))
    inside = mask.bool()
    size = exact.logits.abs().max()
    for logits in (stock, wide.logits):
        assert (logits - exact.logits[:, :-1])[inside].abs().max() < 0.02 * size
    assert (step[:, 0] - exact.logits[:, -1]).abs().max() < 0.02 * size


def test_float32_models_and_errors_leave_it_as_it_is(model: Any, low: Any) -> None:
    before = model.config._attn_implementation
    with float32_attention(model):
        assert model.config._attn_implementation == before
    with pytest.raises(RuntimeError), float32_attention(low):
        raise RuntimeError
    assert low.config._attn_implementation == STOCK
