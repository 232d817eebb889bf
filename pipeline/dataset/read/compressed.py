"""Opens a file as a stream of bytes, unpacked on the way: gzip, zstd, bzip2, xz, told by their first bytes.

zstd comes through pyarrow, which is here anyway: Python has it only from 3.14 on, and the reader of the package
`zstandard` takes a file that was cut off for a complete one.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.run.errors import UserError, one_line

CHUNK = 1 << 20  # bytes read at once
MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # the second: a frame to be skipped
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
}

# Text packs to a third or a twentieth of its size; rows that a program made, to a hundredth. What grows further is
# made to fill a disk or memory.
MOST_GROWTH = 200
HARMLESS = 256 << 20  # bytes that may come out of any file, however small

Stream: TypeAlias = "io.BufferedReader[Any]"


class Damaged(Exception):
    """The bytes end or break in the middle; its text says how."""


class Bomb(Damaged):
    """A file that unpacks to far more than data does."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """The file's bytes, unpacked where it is packed. Memory: a few `CHUNK`s, however large the file.

    Raises:
        UserError: a zip archive, which can hold several files.
        Damaged: (by the stream, while reading) packed data that is broken or cut off, or (`Bomb`) grows beyond reason.
    """
    with io.BufferedReader(io.FileIO(path), CHUNK) as file:
        packing = packing_of(file.peek(16))
        if packing == "zip":
            fix = "unpack it and name the file inside; save a spreadsheet (.xlsx) as CSV"
            raise UserError("the file is a zip archive", str(path), fix)
        if not packing:
            yield file
            return
        unpacked: Stream = io.BufferedReader(_Unpacked(file, packing, most_of(path)), CHUNK)
        with unpacked:
            yield unpacked


def most_of(path: Path) -> int:
    """Bytes that a file of this size may unpack to."""
    return max(HARMLESS, MOST_GROWTH * path.stat().st_size)


def is_packed(stream: Stream) -> bool:
    return isinstance(stream.raw, _Unpacked)


def packing_of(head: bytes) -> str:
    """`gzip`, `zstd`, `bzip2`, `xz`, `zip`, or empty for bytes that are none of them."""
    return next((name for name, magic in MAGIC.items() if magic.match(head)), "")


class _Unpacked(io.RawIOBase):
    """Unpacked bytes, at most `most`. All that the four libraries raise for broken data becomes `Damaged`."""

    def __init__(self, file: Stream, packing: str, most: int) -> None:
        self.packing, self.most, self.left = packing, most, most
        self.inner: Any
        if packing == "gzip":
            self.inner = gzip.GzipFile(fileobj=file)
        elif packing == "bzip2":
            self.inner = bz2.BZ2File(file)
        elif packing == "xz":
            self.inner = lzma.LZMAFile(file)  # noqa: SIM115  (closed with the file below it)
        else:
            import pyarrow

            self.inner = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = int(self.inner.readinto(buffer))
        except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise Damaged(f"the {self.packing} data is damaged or cut off ({_said(error)})") from None
        self.left -= count
        if self.left < 0:
            grown = f"the {self.packing} data unpacks to more than {self.most >> 20:,} MB"
            raise Bomb(f"{grown}, {MOST_GROWTH} times its size, which no text does")
        return count


def _said(error: Exception) -> str:
    said = one_line(error)
    if "too much memory" in said:  # zstd --long=28 and above
        return "its window is larger than 128 MB: pack it again without --long"
    return said[:100]
