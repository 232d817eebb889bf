"""Attention over the rows of a `SlotCache`, for models of transformers.

With one new token a row, the heads that share keys are treated as several tokens of one head, so that keys are read in
place and not repeated for each head:

    q (rows, heads, 1, size) -> (rows, key heads, group, size);  scores (rows, key heads, group, columns)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "suri_slots"


def slot_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    scaling: float | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Output (rows, tokens, heads, size). key, value: (rows, key heads, columns, size). attention_mask: additive,
    (rows, 1, tokens, columns); None: everything is seen."""
    rows, heads, tokens, size = query.shape
    groups = heads // key.shape[1]
    if tokens == 1 and groups > 1:
        grouped = query.reshape(rows, key.shape[1], groups, size)
        out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
        return out.reshape(rows, 1, heads, -1), None
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, slot_attention)
# For passes of the model without a `SlotCache`: additive masks, always made.
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def use_slot_attention(model: Any) -> None:
    """Lets a model compute its attention here, where it is a plain softmax; others keep their implementation."""
    config = model.config
    is_plain = getattr(model, "_supports_attention_backend", False) and getattr(model, "_supports_sdpa", False)
    if getattr(config, "attn_logit_softcapping", None) or any(n.endswith("sinks") for n, _ in model.named_parameters()):
        is_plain = False
    model.set_attn_implementation(NAME if is_plain else "eager")


def masks_of(
    config: Any, positions: torch.Tensor, columns: int, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Additive masks, (rows, 1, tokens, columns): a token sees columns up to its position; by kind of layer where a
    model has several.

    Args:
        positions: (rows, tokens).
    """
    kinds = sorted(set(getattr(config, "layer_types", None) or []))
    window = getattr(config, "sliding_window", None)
    if not kinds:
        kinds = ["sliding_attention" if window else "full_attention"]
    column = torch.arange(columns, device=positions.device)
    seen = column <= positions[..., None]
    masks = {}
    for kind in kinds:
        visible = seen if kind != "sliding_attention" else seen & (column > positions[..., None] - window)
        mask = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
        masks[kind] = mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
    return masks if len(masks) > 1 else masks[kinds[0]]
