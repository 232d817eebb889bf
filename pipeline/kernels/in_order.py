"""Sums in a fixed order, so that a run that is repeated or resumed ends with the same bits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def in_order(wanted: bool = True, strict: bool = False) -> Iterator[None]:
    """While it lasts, torch takes algorithms whose sums do not depend on which thread comes first, or, not `wanted`,
    those it likes.

    On CPUs it is the gradient of an index that has no order of its own: threads add to the same place as they come.

    Args:
        strict: what has no such algorithm is a RuntimeError, and not only said once. Attention's backward passes on
            CUDA have one and take it only then.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid: a pass over each result
    torch.use_deterministic_algorithms(wanted, warn_only=not strict)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
