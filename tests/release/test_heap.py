"""Memory that is reused during a merge."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest
import torch

from pipeline.release.shards.heap import MOST_FREE, reused_memory

BLOCK = 24 * 2**20  # numbers: 96 MiB, more than glibc ever keeps by itself
PAGES = 4 * BLOCK // resource.getpagesize()


def faults(times: int) -> int:
    """Pages that the system gave to this process while blocks were made and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BLOCK)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_freed_blocks_are_used_again() -> None:
    torch.set_num_threads(1)
    with reused_memory() as trim:
        faults(8)  # until there are holes of the right size
        assert faults(12) < 9 * PAGES
        held = [torch.ones(BLOCK) for _ in range(12)]
        most = resident()
        del held
        trim()
        assert resident() < most - MOST_FREE
