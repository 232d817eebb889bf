"""HTTP/1.1 for many requests at once: a transport for the openai client, over asyncio's streams.

The client's usual transport looks through all of its connections for every request and every reply: with 64 in flight
that is a third of the time that a request costs, with 1,024 nearly all of it. This one takes a free connection
from a stack. Lines and bodies are parsed by h11, as there.
"""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import h11
import httpx2

IDLE = 4.0  # seconds after which a connection is not used again: many servers close it after 5
LINES = 64 << 10  # bytes of a reply's head
BLOCK = 1 << 16  # bytes that are read at once
Origin = tuple[bytes, str, int]


def http_client(hooks: dict[str, Any], timeout: float) -> httpx2.AsyncClient | None:
    """An HTTP client with this transport; None where a proxy is set in the environment, which it does not speak to."""
    import openai

    if urllib.request.getproxies():
        return openai.DefaultAsyncHttpxClient(event_hooks=hooks, timeout=timeout)
    return openai.DefaultAsyncHttpxClient(event_hooks=hooks, timeout=timeout, transport=Transport())


class Transport(httpx2.AsyncBaseTransport):
    """Connections by address; each carries one request at a time. Time limits are the caller's."""

    def __init__(self) -> None:
        self._free: dict[Origin, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._ssl: Any = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request; the response's body is read from its stream.

        Raises:
            httpx2.ConnectError, WriteError, ReadError, RemoteProtocolError: as the usual transport.
        """
        url, body = request.url, await request.aread()
        origin = (url.raw_scheme, url.host, url.port or (443 if url.raw_scheme == b"https" else 80))
        connection = self._take(origin) or await self._connect(origin)
        try:
            await connection.send(request, body)
            head = await connection.head()
        except BaseException:
            connection.close()
            raise
        return httpx2.Response(
            head.status_code, headers=head.headers.raw_items(), stream=_Stream(connection, self._free[origin]),
            extensions={"http_version": b"HTTP/" + bytes(head.http_version)},
        )  # fmt: skip

    async def aclose(self) -> None:
        """Closes all connections."""
        for connection in list(self._all):
            connection.close()

    def _take(self, origin: Origin) -> _Connection | None:
        free, now = self._free.setdefault(origin, []), asyncio.get_running_loop().time()
        while free:
            connection = free.pop()
            if now - connection.idle_since < IDLE and connection.is_usable():
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin) -> _Connection:
        scheme, host, port = origin
        if scheme == b"https" and self._ssl is None:
            self._ssl = httpx2.create_ssl_context()
        loop, reader = asyncio.get_running_loop(), _Reader(limit=BLOCK)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, host, port, ssl=self._ssl if scheme == b"https" else None, happy_eyeballs_delay=0.25
            )
        except OSError as error:
            raise httpx2.ConnectError(str(error)) from error
        connection = _Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop), self._all)
        self._all.add(connection)
        return connection


class _Reader(asyncio.StreamReader):
    """Counts the bytes that came, to see those that belong to no request: a second reply would be taken for the next
    request's."""

    came = 0

    def feed_data(self, data: Any) -> None:
        self.came += len(data)
        super().feed_data(data)


class _Connection:
    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter, among: set[_Connection]) -> None:
        self.reader, self.writer, self.among = reader, writer, among
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=LINES)
        self.idle_since, self.taken = 0.0, 0

    def is_usable(self) -> bool:
        is_open = not self.writer.is_closing() and not self.reader.at_eof()
        return is_open and self.reader.came == self.taken and not self.http.trailing_data[0]

    async def send(self, request: httpx2.Request, body: bytes) -> None:
        send = self.http.send
        try:
            head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
            data = (
                (send(head) or b"") + (send(h11.Data(body)) or b"" if body else b"") + (send(h11.EndOfMessage()) or b"")
            )
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise httpx2.WriteError(str(error) or type(error).__name__) from error
        except h11.LocalProtocolError as error:
            raise httpx2.LocalProtocolError(str(error)) from error

    async def head(self) -> h11.Response:
        while True:
            event = await self.event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise httpx2.RemoteProtocolError("the server ended the connection without a reply")

    async def event(self) -> Any:
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                data = await self.reader.read(BLOCK)
                self.taken += len(data)
                self.http.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise httpx2.RemoteProtocolError(str(error)) from error
        except OSError as error:
            raise httpx2.ReadError(str(error) or type(error).__name__) from error
        return event

    def close(self) -> None:
        self.among.discard(self)
        with contextlib.suppress(Exception):
            self.writer.transport.abort() if self.http.our_state is not h11.IDLE else self.writer.close()


class _Stream(httpx2.AsyncByteStream):
    """A body; at its end the connection is free again, and before that it is closed."""

    def __init__(self, connection: _Connection, free: list[_Connection]) -> None:
        self.connection, self.free = connection, free

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not isinstance(event := await self.connection.event(), (h11.EndOfMessage, h11.ConnectionClosed)):
            yield bytes(event.data)

    async def aclose(self) -> None:
        connection = self.connection
        if connection.http.our_state is h11.DONE and connection.http.their_state is h11.DONE:
            connection.http.start_next_cycle()
            connection.idle_since = asyncio.get_running_loop().time()
            self.free.append(connection)
        else:
            connection.close()
