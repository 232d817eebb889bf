"""Attention of a model in bf16 on a CPU, computed in float32 while it generates.

torch's attention for one query of each row takes four times as long in bf16 as in float32 on a CPU (32 rows of 120
tokens, SmolLM2-135M's heads: 3.6 and 1.0 ms), which would use up what the products gain. Keys and values stay in bf16
in the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "suri_float32"  # in transformers' registry
STOCK = "sdpa"  # which it replaces


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """As transformers' `sdpa`: query, key and value (rows, heads, tokens, size) -> (rows, tokens, heads, size)."""
    wide = (query.float(), key.float(), value.float())
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    output, _ = sdpa_attention_forward(module, *wide, attention_mask, **settings)
    return output.to(query.dtype), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def float32_attention(model: Any) -> Iterator[None]:
    """Context in which a model in bf16 on a CPU, whose attention is torch's, computes it in float32."""
    weight, config = next(model.parameters()), model.config
    is_slow = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
    if not is_slow or getattr(config, "_attn_implementation", None) != STOCK:
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = STOCK
