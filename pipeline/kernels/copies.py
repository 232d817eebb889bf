"""Copies of the adapters' values in the arithmetic's type, scaled; made anew after each optimiser step.

    copy = scale * parameter

There are hundreds of them, some inside other matrices, and in the time that Python takes to start as many kernels a
small model could do part of a step: on CUDA one kernel makes them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Copies:
    """What `Linear.copies` gives, of all linears.

    Args:
        wanted: a copy, (rows, columns) with the elements of a row side by side; its parameter; its scale.
    """

    def __init__(self, wanted: Sequence[tuple[torch.Tensor, torch.Tensor, float]]) -> None:
        self.targets, self.sources = [t for t, _, _ in wanted], [s for _, s, _ in wanted]
        self.scales = [scale for _, _, scale in wanted]
        self.addresses: list[int] = []

    @torch.no_grad()
    def refresh(self) -> None:
        """Makes all copies equal to their parameters again."""
        if not self.targets:
            return
        if self.targets[0].is_cuda and all(s.dtype == torch.float32 and s.is_contiguous() for s in self.sources):
            self.at_once()
            return
        torch._foreach_copy_(self.targets, self.sources)
        torch._foreach_mul_(self.targets, self.scales)

    def at_once(self) -> None:
        """As `refresh`, by one kernel."""
        from pipeline.kernels import gpu_lora

        addresses = [source.data_ptr() for source in self.sources]
        if addresses != self.addresses:
            pairs = zip(addresses, self.targets, strict=True)
            table = [(there, t.data_ptr(), t.numel(), t.shape[1], t.stride(0)) for there, t in pairs]
            self.table = torch.tensor(table, device=self.targets[0].device)
            self.factors = torch.tensor(self.scales, device=self.targets[0].device)
            self.addresses, self.largest = addresses, max(t.numel() for t in self.targets)
        gpu_lora.copy(self.table, self.factors, self.sources[0], self.targets[0], self.largest)
