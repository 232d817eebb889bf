"""Copies of the adapters in the compute dtype: copy = scale * parameter, refreshed after each optimizer step.

There are hundreds of them, and some are views into larger matrices. Launching one kernel for each would take a
noticeable part of a small model's step, so on CUDA a single kernel refreshes all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.kernels.card import runs_kernels


class AdapterCopies:
    """The copies of all linear layers (`StackedLora.copies`).

    Args:
        copies: (copy, parameter, scale) each; a copy is (rows, columns), contiguous within a row.
    """

    def __init__(self, copies: Sequence[tuple[torch.Tensor, torch.Tensor, float]]) -> None:
        self.targets, self.sources = [t for t, _, _ in copies], [s for _, s, _ in copies]
        self.scales = [scale for _, _, scale in copies]
        self.addresses: list[int] = []

    @torch.no_grad()
    def refresh(self) -> None:
        """Writes scale * parameter into every copy."""
        if not self.targets:
            return
        if runs_kernels(self.targets[0]) and all(s.dtype == torch.float32 and s.is_contiguous() for s in self.sources):
            self.refresh_in_one_launch()
            return
        torch._foreach_copy_(self.targets, self.sources)
        torch._foreach_mul_(self.targets, self.scales)

    def refresh_in_one_launch(self) -> None:
        """`refresh` on CUDA. The table of addresses is rebuilt when a parameter has moved."""
        from pipeline.kernels import triton_lora

        addresses = [source.data_ptr() for source in self.sources]
        if addresses != self.addresses:
            pairs = zip(addresses, self.targets, strict=True)
            table = [(source, t.data_ptr(), t.numel(), t.shape[1], t.stride(0)) for source, t in pairs]
            self.table = torch.tensor(table, device=self.targets[0].device)
            self.factors = torch.tensor(self.scales, device=self.targets[0].device)
            self.addresses, self.max_elements = addresses, max(t.numel() for t in self.targets)
        triton_lora.copy_scaled(self.table, self.factors, self.sources[0], self.targets[0], self.max_elements)
