"""Deterministic sums, so that a repeated or resumed run ends with the same bits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def deterministic(enabled: bool = True, strict: bool = False) -> Iterator[None]:
    """Context in which torch uses deterministic algorithms, or its fastest ones if not `enabled`.

    On CPUs this matters for the gradient of indexing: without it, threads add to the same element in any order.

    Args:
        strict: raise RuntimeError for operations without a deterministic algorithm instead of warning once. The
            backward passes of torch's attention on CUDA use their deterministic algorithm only in this mode.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that writes every new tensor
    torch.use_deterministic_algorithms(enabled, warn_only=not strict)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
