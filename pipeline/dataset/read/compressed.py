"""Opens a file as a stream of bytes, decompressed while it is read: gzip, zstd, bzip2, xz, by their first bytes.

zstd is read by pyarrow, which is installed anyway: Python has it only from 3.14 on, and the reader of the package
`zstandard` accepts a truncated file as complete.
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
from typing import Any, TypeAlias

from pipeline.run.errors import UserError, one_line
from pipeline.run.object_store import DataFile, Object, size_of

CHUNK = 1 << 20  # bytes read at once
MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # the second: a skippable frame
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
}

# Text compresses to between a third and a twentieth of its size, generated rows to a hundredth. A file that grows more
# is meant to fill a disk or memory.
MOST_GROWTH = 200
HARMLESS = 256 << 20  # bytes that any file may decompress to, however small

Stream: TypeAlias = "io.BufferedReader[Any]"


class Damaged(Exception):
    """The bytes are truncated or broken; the message says how."""


class Bomb(Damaged):
    """A file that decompresses to far more than data does."""


class ReadSoFar:
    """Bytes of data files that this process has read, as they are on the disk, for bars.

    is_known: false once a file was mapped into memory (Parquet, Arrow), whose reading cannot be counted.
    """

    count, is_known = 0, True

    def reset(self) -> None:
        """Begins a source."""
        self.count, self.is_known = 0, True

    def add(self, count: int) -> None:
        """Counts bytes that were read."""
        self.count += count


READ = ReadSoFar()


class _Counted(io.FileIO):
    """A file whose bytes are counted."""

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        READ.add(count)
        return count


@contextlib.contextmanager
def opened(path: DataFile) -> Iterator[Stream]:
    """The file's bytes, decompressed if necessary. Memory: a few `CHUNK`s, however large the file.

    Raises:
        UserError: a zip archive, which can hold several files.
        Damaged: (by the stream, while reading) compressed data is broken or truncated, or (`Bomb`) grows too much.
    """
    raw = path.stream(READ.add) if isinstance(path, Object) else _Counted(path)
    with io.BufferedReader(raw, CHUNK) as file:
        compression = compression_of(file.peek(16))
        if compression == "zip":
            fix = "unpack it and name the file inside; save a spreadsheet (.xlsx) as CSV"
            raise UserError("the file is a zip archive", str(path), fix)
        if not compression:
            yield file
            return
        stream: Stream = io.BufferedReader(_Decompressed(file, compression, most_of(path)), CHUNK)
        with stream:
            yield stream


def most_of(path: DataFile) -> int:
    """Bytes that a file of this size may decompress to."""
    return max(HARMLESS, MOST_GROWTH * size_of(path))


def is_compressed(stream: Stream) -> bool:
    return isinstance(stream.raw, _Decompressed)


def compression_of(head: bytes) -> str:
    """`gzip`, `zstd`, `bzip2`, `xz`, `zip`, or empty for other bytes."""
    return next((name for name, magic in MAGIC.items() if magic.match(head)), "")


class _Decompressed(io.RawIOBase):
    """Decompressed bytes, at most `most`. What the four libraries raise for broken data becomes `Damaged`."""

    def __init__(self, file: Stream, compression: str, most: int) -> None:
        self.compression, self.most, self.left = compression, most, most
        self.inner: Any
        if compression == "gzip":
            self.inner = gzip.GzipFile(fileobj=file)
        elif compression == "bzip2":
            self.inner = bz2.BZ2File(file)
        elif compression == "xz":
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
            raise Damaged(f"the {self.compression} data is damaged or cut off ({_message(error)})") from None
        self.left -= count
        if self.left < 0:
            size = f"the {self.compression} data unpacks to more than {self.most >> 20:,} MB"
            raise Bomb(f"{size}, {MOST_GROWTH} times its size, which no text does")
        return count


def _message(error: Exception) -> str:
    message = one_line(error)
    if "too much memory" in message:  # zstd --long=28 and above
        return "its window is larger than 128 MB: pack it again without --long"
    return message[:100]
