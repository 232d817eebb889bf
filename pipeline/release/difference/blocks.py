"""Differences of weights as integers: exact, whatever the numbers are.

A weight of n bits is taken as an unsigned integer. The difference is modulo 2^n, so that adding it to the base gives
every bit back, of NaN and infinity too, which a difference of floating-point numbers would not:

    difference = tuned - base   (mod 2^n)        tuned = base + difference   (mod 2^n)

The idea of publishing a model this way is stanford_alpaca's (`weight_diff.py`); its differences are floating-point
numbers, compared by a sum. https://github.com/tatsu-lab/stanford_alpaca
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.model.base.folder import weight_files
from pipeline.model.base.safetensors_header import BITS, Entry, read_header

BLOCK = 1 << 25  # bytes that are computed at once
LENGTH = 8  # bytes in front of the header


class Tensors:
    """Bytes of the tensors in a folder with safetensors, by name, whatever files they are in.

    Raises:
        ValueError: a file is damaged.
    """

    def __init__(self, folder: Path, files: list[str] | None = None) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._places: dict[str, tuple[str, int]] = {}  # file, and where its data begins
        for file in weight_files(folder) if files is None else files:
            start = LENGTH + len(header_text(folder / file))
            for name, entry in read_header(folder / file).items():
                self.entries[name], self._places[name] = entry, (file, start)

    def blocks(self, name: str, count: int) -> Iterator[bytes]:
        """The first `count` bytes of a tensor."""
        file, start = self._places[name]
        with open(self.folder / file, "rb") as handle:
            handle.seek(start + self.entries[name].begin)
            yield from _read(handle, count)


def _read(handle: BinaryIO, count: int) -> Iterator[bytes]:
    while count:
        block = handle.read(min(BLOCK, count))
        if not block:
            raise ValueError("the file ends before its last tensor does")
        count -= len(block)
        yield block


def header_text(path: Path) -> bytes:
    """The header of a safetensors file without the length in front of it."""
    with open(path, "rb") as file:
        return file.read(int.from_bytes(file.read(LENGTH), "little"))


def write_header(file: BinaryIO, header: bytes) -> None:
    """Writes a header with its length."""
    file.write(len(header).to_bytes(LENGTH, "little"))
    file.write(header)


def combine(
    file: BinaryIO,
    blocks: Iterator[bytes],
    base: Iterator[bytes],
    covered: int,
    dtype: str,
    sign: int,
    progress: Callable[[int], Any],
) -> str:
    """Writes a tensor plus or minus the base's; returns the sha256 of the base's bytes.

    Args:
        blocks: of the tensor. base: the first `covered` bytes of the base's. dtype: as the header names it. What lies
            behind `covered` is written as it is. sign: 1 adds the base, -1 subtracts it. progress: gets bytes.
    """  # fmt: skip
    word, digest, done = np.dtype(f"<u{BITS[dtype] // 8}"), hashlib.sha256(), 0
    for block in blocks:
        if done < covered:
            other = next(base)
            digest.update(other)
            left, right = np.frombuffer(block[: len(other)], word), np.frombuffer(other, word)
            file.write((left + right if sign > 0 else left - right).tobytes())
            file.write(block[len(other) :])
        else:
            file.write(block)
        done += len(block)
        progress(len(block))
    return digest.hexdigest()
