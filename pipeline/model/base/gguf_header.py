"""Reads and checks the header of a GGUF file before the gguf package allocates memory by its numbers.

    magic "GGUF", version uint32, tensors uint64, keys uint64
    keys      name, type uint32, value; texts and arrays begin with their length (uint64)
    tensors   name, dimensions uint32, each uint64, type uint32, offset uint64
    data      from the next multiple of `general.alignment`; offsets count from here

Little-endian; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

from pipeline.run.json_file import LARGEST_COUNT
from pipeline.run.terminal import quoted

MOST_ENTRIES = 1 << 16  # keys, and tensors
MOST_ITEMS = 1 << 20  # of an array: vocabularies have up to 262,144 words and 520,000 merges
LONGEST_NAME = 1 << 16
LONGEST_TEXT = 1 << 24
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
SIZES = ("_length", "_count", "_size", "_dim")
BLOCKS = ".block_count"  # follows the architecture's name


def read_header(path: Path) -> dict[str, int | str]:
    """The keys whose value is one integer or one text, texts cut to 200 bytes.

    Raises:
        ValueError: the header does not describe this file.
    """
    if path.stat().st_size < 24:
        raise ValueError("it ends before its header does")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parser = _Parser(data)
        try:
            parser.file()
        except struct.error:
            raise ValueError("it ends before its header does") from None
    return parser.values


class _Parser:
    """Reads the header in order. at: position in the file. values: as `read_header` returns them."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size, self.at = data, len(data), 0
        self.values: dict[str, int | str] = {}

    def number(self, form: str) -> int:
        value = struct.unpack_from("<" + form, self.data, self.at)[0]
        self.at += struct.calcsize("<" + form)
        return int(value)

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise ValueError(f"it claims {count:,} bytes at byte {self.at:,}, the file has {self.size:,}")
        self.at += count

    def text(self, longest: int) -> str:
        length = self.number("Q")
        if length > longest:
            raise ValueError(f"a text at byte {self.at:,} claims {length:,} bytes")
        start = self.at
        self.skip(length)
        return self.data[start : min(self.at, start + 200)].decode("utf-8", "replace")

    def file(self) -> None:
        """Raises:
        ValueError, struct.error: the header does not describe this file.
        """
        self.skip(4)
        version = self.number("I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version:,}, 2 and 3 are known")
        tensors, keys = self.number("Q"), self.number("Q")
        for what, count in (("tensors", tensors), ("keys", keys)):
            if count > MOST_ENTRIES:
                raise ValueError(f"it claims {count:,} {what}")
        for _ in range(keys):
            name = self.text(LONGEST_NAME)
            self.value(self.number("I"), name, 0)
        numbers = {name: value for name, value in self.values.items() if isinstance(value, int)}
        for name, number in numbers.items():
            if name.endswith(BLOCKS) and not 0 < number <= tensors:
                raise ValueError(f"{quoted(name)} says {number:,} layers, the file has {tensors:,} tensors")
            if name.endswith(SIZES) and not 0 <= number <= LARGEST_COUNT:
                raise ValueError(f"{quoted(name)} holds {number:,}")
        self.tensors(tensors)

    def value(self, kind: int, name: str, depth: int) -> None:
        if kind == TEXT:
            text = self.text(LONGEST_TEXT)
            if not depth:
                self.values[name] = text
        elif kind in SCALARS:
            if kind in (6, 12):  # floats: not needed, and they may be NaN
                self.skip(struct.calcsize("<" + SCALARS[kind]))
            else:
                self.values[name] = self.number(SCALARS[kind])
        elif kind == ARRAY and depth < 4:
            inner, count = self.number("I"), self.number("Q")
            if count > MOST_ITEMS:
                raise ValueError(f"{quoted(name)} claims {count:,} values")
            if inner in SCALARS:
                self.skip(count * struct.calcsize("<" + SCALARS[inner]))
            else:
                for _ in range(count):
                    self.value(inner, name, depth + 1)
        else:
            raise ValueError(f"{quoted(name)} is of the unknown type {kind:,}")

    def tensors(self, count: int) -> None:
        from gguf import GGML_QUANT_SIZES

        blocks = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
        ends = []
        for _ in range(count):
            name = self.text(LONGEST_NAME)
            dimensions = self.number("I")
            if not 0 < dimensions <= 4:
                raise ValueError(f"the tensor {quoted(name)} has {dimensions:,} dimensions")
            shape = [self.number("Q") for _ in range(dimensions)]
            kind, offset = self.number("I"), self.number("Q")
            if kind not in blocks:
                raise ValueError(f"the tensor {quoted(name)} is of the type {kind:,}, which this gguf does not know")
            block, size = blocks[kind]
            if not all(shape) or shape[0] % block:
                raise ValueError(f"the tensor {quoted(name)} has a shape that its type cannot have")
            ends.append((offset + math.prod(shape) // block * size, name))
        alignment = self.values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment not in [1 << n for n in range(21)]:
            raise ValueError(f"general.alignment is {alignment}")
        start = -(-self.at // alignment) * alignment
        end, name = max(ends, default=(0, ""))
        if start + end > self.size:
            raise ValueError(f"{self.size:,} bytes, its tensor {quoted(name)} ends at {start + end:,}")
