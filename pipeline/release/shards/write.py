"""Writes a checkpoint tensor by tensor: while a thread writes one, the next is read and merged."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import RawIOBase
from pathlib import Path

import torch

from pipeline.release.shards.heap import reused_memory
from pipeline.release.shards.layout import Layout
from pipeline.run.files import byte_bar

BLOCK = 1 << 24  # bytes that are written at once


def write_checkpoint(folder: Path, layout: Layout, tensor: Callable[[str], torch.Tensor]) -> dict[str, int]:
    """Writes all files of a layout; returns the CRC-32 of each tensor's bytes.

    At most three tensors are in memory: the one that a thread writes, the next one, and what its computation needs.

    Args:
        tensor: computes a tensor by its name, in the layout's type and shape.
    """
    sums: dict[str, Future[int]] = {}
    with reused_memory() as trim, byte_bar(layout.size, "export: merging") as progress:
        for file in layout.files:
            with open(folder / file.name, "wb", buffering=0) as handle, ThreadPoolExecutor(1) as thread:
                handle.write(file.header)
                progress.update(len(file.header))
                writing: Future[int] | None = None
                for name in file.names:
                    data = tensor(name)
                    if writing is not None:
                        writing.result()
                    writing = sums[name] = thread.submit(_write, handle, data, progress.update)
                    del data
                    trim()
    layout.write_index(folder)
    return {name: one.result() for name, one in sums.items()}


def content(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on the CPU."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def _write(handle: RawIOBase, tensor: torch.Tensor, tell: Callable[[int], object]) -> int:
    """Writes a tensor; returns the CRC-32 of its bytes. tell: gets the number of bytes after each block."""
    view = content(tensor)
    for start in range(0, len(view), BLOCK):
        block = view[start : start + BLOCK]
        done = 0
        while done < len(block):  # a raw file may take less than it is given
            done += handle.write(block[done:]) or 0
        tell(len(block))
    return zlib.crc32(view)
