"""Bounds on the size and time of a reply: a server may never stop sending, and 1 MB of gzip may hold 1 GB."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

MOST = 2 << 20  # bytes of an unpacked reply; a verdict with its reasons has some thousand


class Unbounded(Exception):
    """A reply is too large, takes too long, or is packed in a form that cannot be bounded."""


class Bound:
    """Unpacks the pieces of one body, as far as the bounds allow.

    Args:
        seconds: for the whole body, from now on.
        packed: by gzip or deflate.
        most: bytes of the unpacked body.
    """

    def __init__(self, seconds: float, packed: bool, most: int = MOST) -> None:
        self.seconds, self.most, self.left = seconds, most, most
        self.end = time.monotonic() + seconds
        self.unpacker = zlib.decompressobj(wbits=47) if packed else None  # 47: gzip or zlib, as its head says

    def unpacked(self, data: bytes) -> bytes:
        """The next piece.

        Raises:
            Unbounded: the pieces so far are larger than allowed, came too late, or are damaged.
        """
        if time.monotonic() > self.end:
            raise Unbounded(f"the reply was not whole within {self.seconds:g} s")
        try:
            piece = self.unpacker.decompress(data, self.left + 1) if self.unpacker else data
        except zlib.error as error:
            raise Unbounded(f"the packed reply is damaged ({error})") from None
        self.left -= len(piece)
        if self.left < 0:
            raise Unbounded(f"the reply is larger than {self.most >> 20} MB")
        return piece


class Body:
    """An event hook of an httpx client that replaces the stream of each response by a bounded one.

    Args:
        seconds: for the whole body, from its first byte; each wait for bytes has the client's own timeout.
        most: bytes of an unpacked body.
    """

    def __init__(self, seconds: float, most: int = MOST) -> None:
        self.seconds, self.most = seconds, most

    def __call__(self, response: Any) -> None:
        """Before the body is read.

        Raises:
            Unbounded: packed otherwise than by gzip or deflate.
        """
        packing = response.headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "", "gzip", "deflate"):
            raise Unbounded(f"the reply is packed ({packing[:40]}), which was not asked for")
        is_packed = packing in ("gzip", "deflate")
        if is_packed:
            del response.headers["content-encoding"]
        library = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or its successor
        response.stream = self._stream(library, response.stream, is_packed)

    def _stream(self, library: Any, stream: Any, is_packed: bool) -> Any:
        kind: Any = library.SyncByteStream  # the library looks at the class
        seconds, most = self.seconds, self.most

        class Bounded(kind):
            def __iter__(self) -> Iterator[bytes]:
                return bounded(stream, seconds, is_packed, most)

            def close(self) -> None:
                stream.close()

        return Bounded()


class AsyncBody(Body):
    """The same for an asynchronous client."""

    async def __call__(self, response: Any) -> None:  # type: ignore[override]
        """Before the body is read.

        Raises:
            Unbounded: packed otherwise than by gzip or deflate.
        """
        super().__call__(response)

    def _stream(self, library: Any, stream: Any, is_packed: bool) -> Any:
        bound = Bound(self.seconds, is_packed, self.most)
        return _kind(library.AsyncByteStream)(stream, bound)


_kinds: dict[Any, Any] = {}


def _kind(base: Any) -> Any:
    """The class of a bounded stream; made once, since a class takes 0.05 ms and a teacher sends a thousand replies a
    second."""
    if base not in _kinds:

        class Bounded(base):
            def __init__(self, stream: Any, bound: Bound) -> None:
                self.stream, self.bound = stream, bound

            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for data in self.stream:
                    yield self.bound.unpacked(data)

            async def aclose(self) -> None:
                await self.stream.aclose()

        _kinds[base] = Bounded
    return _kinds[base]


def bounded(stream: Iterable[bytes], seconds: float, packed: bool, most: int = MOST) -> Iterator[bytes]:
    """The bytes of a stream, unpacked.

    Raises:
        Unbounded: (while reading) more than `most`, not all of them within `seconds`, or packed ones are damaged.
    """
    bound = Bound(seconds, packed, most)
    for data in stream:
        yield bound.unpacked(data)
