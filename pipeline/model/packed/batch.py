"""A pack on the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.kernels.embedding_noise import EmbeddingNoise
from pipeline.kernels.layout import Layout, LayoutSize
from pipeline.prompt.pack import Pack
from pipeline.prompt.token_noise import TokenNoise


@dataclass(frozen=True)
class PackedBatch:
    """A pack as tensors on the device.

    ids, positions: int64, (1, tokens). layout: for attention. kept_positions: int64, (kept,), the tokens that predict
    something. entries: int64, (entries,), index of each entry in `kept_positions`; None if there is exactly one entry
    for each. targets: int64, weights: float32, (entries,): what an entry predicts and how many rows it counts for.
    noise: on the embeddings, (1, tokens); None without.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    layout: Layout
    kept_positions: torch.Tensor
    entries: torch.Tensor | None
    targets: torch.Tensor
    weights: torch.Tensor
    noise: EmbeddingNoise | None = None

    @property
    def has_targets(self) -> bool:
        """Whether a pass computes anything."""
        return len(self.targets) > 0

    @classmethod
    def of(
        cls, pack: Pack, device: torch.device, plain_attention: bool, size: LayoutSize | None = None, min_kept: int = 0
    ) -> PackedBatch:
        """plain_attention: without our kernels. size: see `Layout.of`. min_kept: pad `kept_positions` to so many, by
        repeating the last one."""
        kept, entries = pack.where, None
        if pack.preambles:
            kept, entries = np.unique(pack.where, return_inverse=True)
            kept = np.concatenate([kept, np.full(max(0, min_kept - len(kept)), kept[-1] if len(kept) else 0)])

        return cls(
            ids=_tensor(pack.ids[None], device),
            positions=_tensor(pack.positions[None], device),
            layout=Layout.of(pack, device, plain_attention, size),
            kept_positions=_tensor(kept, device),
            entries=None if entries is None else _tensor(entries.reshape(-1), device),
            targets=_tensor(pack.targets, device),
            weights=_tensor(pack.weights, device),
        )

    def with_noise(self, noise: TokenNoise) -> PackedBatch:
        """The same pack with noise; its arrays have the shape (tokens,)."""
        tensors = (_tensor(values[None], self.ids.device) for values in (noise.keys, noise.scales))
        return replace(self, noise=EmbeddingNoise(*tensors))


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    cpu = torch.from_numpy(np.ascontiguousarray(values))
    return cpu.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else cpu
