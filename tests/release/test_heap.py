"""Memory that is reused during a merge."""

from __future__ import annotations

import resource

import pytest
import torch

from pipeline.release.shards.heap import reused_memory

BLOCK = 24 * 2**20  # numbers: 96 MiB, more than glibc ever keeps by itself
PAGES = 4 * BLOCK // resource.getpagesize()


def faults(times: int) -> int:
    """Pages that the system gave to this process while blocks were made and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BLOCK)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_blocks_are_used_again() -> None:
    torch.set_num_threads(1)
    with reused_memory() as can:
        if not can:
            pytest.skip("needs glibc")
        faults(1)
        assert faults(4) < 2 * PAGES
    assert faults(4) > 3 * PAGES  # and afterwards as always
