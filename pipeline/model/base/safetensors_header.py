"""Reads and checks the header of a safetensors file before memory is allocated by its numbers.

    uint64 n   length of the header, little-endian
    n bytes    JSON: {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {...}}
    data       the tensors in sequence, without gaps; offsets count from here

https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.run.json_file import is_whole, parse
from pipeline.run.terminal import quoted

LARGEST_HEADER = 32_000_000  # bytes; 50,000 tensors need 7 MB
FLOATS = ("F64", "F32", "F16", "BF16")
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor. begin, end: byte offsets after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name.

    Raises:
        ValueError: there is no such header, or it does not describe this file.
    """
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError("it has no safetensors header")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header claims {length:,} bytes, at most {LARGEST_HEADER:,} are read")
        try:
            header = parse(file.read(length))
        except ValueError:
            raise ValueError("its header is not readable") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not readable")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its header is not readable: metadata other than texts")
    entries = {name: _entry(name, value) for name, value in header.items()}
    at = 0
    for name, entry in in_file_order(entries):
        if entry.begin != at:
            raise ValueError(f"the tensor {quoted(name)} begins at byte {entry.begin:,}, the one before ends at {at:,}")
        at = entry.end
    if size != 8 + length + at:
        raise ValueError(f"{size:,} bytes, {8 + length + at:,} by its header")
    return entries


def in_file_order(entries: Mapping[str, Entry]) -> list[tuple[str, Entry]]:
    """Names and tensors in the order of their bytes."""
    return sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))


def _entry(name: str, value: Any) -> Entry:
    """Raises:
    ValueError: type, shape and offsets do not agree.
    """
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"its header is not readable: the tensor {quoted(name)} is of type {quoted(str(dtype))}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(is_whole(n) and 0 <= n < 1 << 63 for n in numbers):
            raise ValueError(f"its header is not readable: shape or place of the tensor {quoted(name)}")
    assert isinstance(shape, list)
    assert isinstance(offsets, list)
    if len(offsets) != 2 or len(shape) > 64:
        raise ValueError(f"its header is not readable: shape or place of the tensor {quoted(name)}")
    begin, end = offsets
    if end < begin or (end - begin) * 8 != math.prod(shape) * BITS[dtype]:
        raise ValueError(f"the tensor {quoted(name)} has {end - begin:,} bytes, not those of its type and shape")
    return Entry(dtype, tuple(shape), begin, end)


def damage(path: Path) -> str:
    """What is wrong with a safetensors file, by its header and length; empty when nothing is."""
    try:
        read_header(path)
    except ValueError as error:
        return str(error)
    return ""
