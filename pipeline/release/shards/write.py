"""Writes a checkpoint tensor by tensor: while one is written, the next is read and merged."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from pipeline.release.shards.layout import Layout
from pipeline.run.files import byte_bar

BLOCK = 1 << 24  # bytes that are written at once


def write_checkpoint(folder: Path, layout: Layout, tensor: Callable[[str], torch.Tensor]) -> dict[str, int]:
    """Writes all files of a layout; returns the CRC-32 of each tensor's bytes.

    At most three tensors are in memory: the one that is written, the next one, and what its computation needs.

    Args:
        tensor: computes a tensor by its name, in the layout's type and shape.
    """
    sums: dict[str, int] = {}
    with byte_bar(layout.size, "export: merging") as progress:
        for file in layout.files:
            with open(folder / file.name, "wb", buffering=0) as handle:
                handle.write(file.header)
                progress.update(len(file.header))
                for name, data in _ahead(file.names, tensor):
                    view = content(data)
                    for start in range(0, len(view), BLOCK):
                        _write_all(handle, view[start : start + BLOCK])
                        progress.update(min(BLOCK, len(view) - start))
                    sums[name] = zlib.crc32(view)
    layout.write_index(folder)
    return sums


def content(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on the CPU."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def _write_all(handle: object, view: memoryview) -> None:
    done = 0
    while done < len(view):  # a raw file may take less than it is given
        done += handle.write(view[done:])  # type: ignore[attr-defined]


def _ahead(names: Iterable[str], tensor: Callable[[str], torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each name with its tensor, the next of which a thread computes already."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for name in names:
            following = (name, thread.submit(tensor, name))
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()
