"""Bounds on the size and time of a reply: a server may never stop sending, and 1 MB of gzip may hold 1 GB."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

MOST = 2 << 20  # bytes of an unpacked reply; a verdict with its reasons has some thousand


class Unbounded(Exception):
    """A reply is too large, takes too long, or is packed in a form that cannot be bounded."""


class Body:
    """An event hook of an httpx client that replaces the stream of each response by a bounded one.

    Args:
        seconds: for the whole body, from its first byte; each wait for bytes has the client's own timeout.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, response: Any) -> None:
        """Before the body is read.

        Raises:
            Unbounded: packed otherwise than by gzip or deflate.
        """
        packing = response.headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "", "gzip", "deflate"):
            raise Unbounded(f"the reply is packed ({packing[:40]}), which was not asked for")
        if packing in ("gzip", "deflate"):
            del response.headers["content-encoding"]
        library = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or its successor
        kind: Any = library.SyncByteStream  # the library looks at the class
        stream, seconds = response.stream, self.seconds

        class Bounded(kind):
            def __iter__(self) -> Iterator[bytes]:
                return bounded(stream, seconds, packing in ("gzip", "deflate"))

            def close(self) -> None:
                stream.close()

        response.stream = Bounded()


def bounded(stream: Iterable[bytes], seconds: float, packed: bool) -> Iterator[bytes]:
    """The bytes of a stream, unpacked.

    Raises:
        Unbounded: (while reading) more than `MOST`, not all of them within `seconds`, or packed ones are damaged.
    """
    end, left = time.monotonic() + seconds, MOST
    unpacker = zlib.decompressobj(wbits=47) if packed else None  # 47: gzip or zlib, as its head says
    for data in stream:
        if time.monotonic() > end:
            raise Unbounded(f"the reply was not whole within {seconds:g} s")
        try:
            piece = unpacker.decompress(data, left + 1) if unpacker else data
        except zlib.error as error:
            raise Unbounded(f"the packed reply is damaged ({error})") from None
        left -= len(piece)
        if left < 0:
            raise Unbounded(f"the reply is larger than {MOST >> 20} MB")
        yield piece
