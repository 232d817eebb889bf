"""What the layers of a model need to know about the pack that passes through them.

transformers calls a layer with hidden states only, so the rest comes from here: `PackedModel` sets the context for a
forward pass, and layers read it with `current()`. Attention is registered in transformers' `AttentionInterface`, so
every model that uses it can take packs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from pipeline.kernels.attention import attention
from pipeline.kernels.types import DropoutSeed
from pipeline.model.packed.batch import PackedBatch

ATTENTION = "suri_packed"  # the name of our attention in transformers' registry


@dataclass(frozen=True)
class PackedContext:
    """seed: of the adapters' dropout, None for none. dtype: that attention computes in; in a model's own layers, rotary
    positions may have turned queries and keys into float32."""

    batch: PackedBatch
    seed: DropoutSeed | None
    dtype: torch.dtype


# A plain global, not thread-local: autograd recomputes a checkpointed layer in a thread of its own.
_current: PackedContext | None = None


def current() -> PackedContext:
    """The context of the pass in progress."""
    assert _current is not None, "a packed layer was called outside of PackedModel.loss_sum"
    return _current


def current_or_none() -> PackedContext | None:
    return _current


@contextlib.contextmanager
def use(context: PackedContext) -> Iterator[None]:
    """Makes it the current context. May be nested; the previous one is restored, also after an error."""
    global _current
    previous, _current = _current, context
    try:
        yield
    finally:
        _current = previous


def _packed_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None,
    scaling: float | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """transformers' interface: query, key, value (1, heads, tokens, size) -> (1, tokens, heads, size)."""
    context = current()
    q, k, v = (t[0].transpose(0, 1).to(context.dtype) for t in (query, key, value))
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    return attention(q, k, v, context.batch.layout, scale)[None], None


AttentionInterface.register(ATTENTION, _packed_attention)
AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)
