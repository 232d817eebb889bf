"""A pack on the device, and the one that is on its way through a model: what its layers ask for while it passes.

Attention comes in through transformers' `AttentionInterface`, so any model that uses it can take packs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from pipeline.kernels.attention import Layout, Room, attention
from pipeline.kernels.lora import Seed
from pipeline.prompt.pack import Pack

NAME = "suri_packed"  # of our attention among those of transformers


class Passing(NamedTuple):
    """seed: of the adapters' dropout. dtype: of attention's arithmetic; where layers are the model's own, what turns
    queries and keys may have left them in float32."""

    ready: Ready
    seed: Seed | None
    dtype: torch.dtype


now: list[Passing] = []  # the pack that is on its way through a model


def _packed_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None,
    scaling: float | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """transformers' interface: (1, heads, tokens, size) in, (1, tokens, heads, size) out."""
    ready, _, dtype = now[-1]
    q, k, v = (t[0].transpose(0, 1).to(dtype) for t in (query, key, value))
    return attention(q, k, v, ready.layout, scaling if scaling is not None else q.shape[-1] ** -0.5)[None], None


AttentionInterface.register(NAME, _packed_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


@dataclass(frozen=True)
class Ready:
    """A pack on the device. kept: positions that predict something; entries: where each entry is in them, None where
    every position has one."""

    ids: torch.Tensor
    positions: torch.Tensor
    layout: Layout
    kept: torch.Tensor
    entries: torch.Tensor | None
    targets: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, pack: Pack, device: torch.device, plain: bool, room: Room | None = None, positions: int = 0) -> Ready:
        """plain: attention without our kernels (CPU, float32). room: as in `Layout.of`. positions: that are kept at
        least; the last one again and again."""
        kept, entries = pack.where, None
        if pack.preambles:
            kept, entries = np.unique(pack.where, return_inverse=True)
            kept = np.concatenate([kept, np.full(max(0, positions - len(kept)), kept[-1] if len(kept) else 0)])

        def tensor(values: np.ndarray) -> torch.Tensor:
            made = torch.from_numpy(np.ascontiguousarray(values))
            return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made

        return cls(
            tensor(pack.ids[None]), tensor(pack.positions[None]), Layout.of(pack, device, plain, room), tensor(kept),
            None if entries is None else tensor(entries.reshape(-1)), tensor(pack.targets), tensor(pack.weights),
        )  # fmt: skip
