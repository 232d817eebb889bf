"""The transport against servers that do what servers do; bounds of bodies as in the judge's tests."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

httpx2: Any = pytest.importorskip("httpx2", reason="needs openai (extra `judge`)")
pytest.importorskip("openai", reason="needs openai (extra `judge`)")
pytestmark = pytest.mark.judge

from pipeline.api import transport  # noqa: E402
from pipeline.api.body import AsyncBody, Unbounded  # noqa: E402

Write = Callable[[bytes], None]
Says = Callable[[int, Write], Any]  # for the number of the request; the connection ends where the result is false


@asynccontextmanager
async def serving(says: Says) -> AsyncIterator[tuple[str, list[int]]]:
    """An address, and for each request the number of its connection."""
    connections: list[int] = []
    count = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        mine = count
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                connections.append(mine)
                if not says(len(connections), writer.write):
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", connections
    finally:
        server.close()


def run(main: Callable[[Any], Coroutine[Any, Any, None]], *hooks: Any) -> None:
    async def work() -> None:
        client = transport.http_client({"response": list(hooks)}, 5)
        try:
            await main(client)
        finally:
            await client.aclose()

    asyncio.run(asyncio.wait_for(work(), 30))


def whole(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + head + b"content-length: %d\r\n\r\n" % len(body) + body


def test_connections_are_used_again_one_request_each() -> None:
    async def main(client: Any) -> None:
        async with serving(lambda n, write: write(whole(b"x" * 100_000)) or True) as (url, connections):
            for _ in range(3):
                assert len((await client.post(url, json={"a": 1})).content) == 100_000
            assert connections == [1, 1, 1]
            await asyncio.gather(*(client.post(url, json={}) for _ in range(8)))
            assert sorted(set(connections)) == list(range(1, 9))

    run(main)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.0 200 OK\r\n\r\nabcde",
    ],
    ids=["chunked", "continue", "close", "until the end"],
)
def test_forms_of_a_reply(reply: bytes) -> None:
    async def main(client: Any) -> None:
        keeps = b"chunked" in reply or b"100" in reply
        async with serving(lambda n, write: write(reply) or keeps) as (url, connections):
            for _ in range(2):
                assert (await client.post(url, json={})).content == b"abcde"
            assert connections == ([1, 1] if keeps else [1, 2])

    run(main)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nabc", "RemoteProtocolError"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * (1 << 18), "RemoteProtocolError"),
    ],
    ids=["nothing", "cut", "another protocol", "endless head"],
)
def test_a_reply_that_is_none(reply: bytes, kind: str) -> None:
    async def main(client: Any) -> None:
        async with serving(lambda n, write: write(reply)) as (url, _):
            with pytest.raises(getattr(httpx2, kind)):
                await client.post(url, json={})

    run(main)


def test_nothing_listens() -> None:
    async def main(client: Any) -> None:
        async with serving(lambda n, write: None) as (url, _):
            pass
        with pytest.raises(httpx2.ConnectError):
            await client.post(url, json={})

    run(main)


def test_a_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    async def main(client: Any) -> None:
        async with serving(lambda n, write: write(whole(b"x")) or n != 1) as (url, connections):
            await client.post(url, json={})
            await asyncio.sleep(0.05)
            await client.post(url, json={})
            assert connections == [1, 2]

    run(main)


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_a_second_reply_is_not_taken_for_the_next_requests(pause: float) -> None:
    def says(number: int, write: Write) -> bool:
        write(whole(b"%d" % number))
        if pause:
            asyncio.get_running_loop().call_later(pause / 2, write, whole(b"%d again" % number))
        else:
            write(whole(b"%d again" % number))
        return True

    async def main(client: Any) -> None:
        async with serving(says) as (url, _):
            for number in range(1, 5):
                assert (await client.post(url, json={})).content == b"%d" % number
                await asyncio.sleep(pause)

    run(main)


def test_an_old_connection_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "IDLE", 0.0)

    async def main(client: Any) -> None:
        async with serving(lambda n, write: write(whole(b"x")) or True) as (url, connections):
            await client.post(url, json={})
            await client.post(url, json={})
            assert connections == [1, 2]

    run(main)


def test_a_cancelled_request_closes_its_connection() -> None:
    async def main(client: Any) -> None:
        async with serving(lambda n, write: (write(whole(b"x")) if n > 1 else None) or True) as (url, connections):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.post(url, json={})
            assert (await client.post(url, json={})).content == b"x"
            assert connections == [1, 2]

    run(main)


@pytest.mark.parametrize(
    ("body", "head", "said"),
    [
        (b" " * 3000, b"", "larger"),
        (gzip.compress(b" " * 10_000_000), b"content-encoding: gzip\r\n", "larger"),
        (b"x", b"content-encoding: br\r\n", "packed"),
        (b"x" * 9, b"content-encoding: gzip\r\n", "damaged"),
    ],
)
def test_bounds_of_a_body(body: bytes, head: bytes, said: str) -> None:
    async def main(client: Any) -> None:
        async with serving(lambda n, write: write(whole(body, head)) or True) as (url, _):
            with pytest.raises(Unbounded, match=said):
                await client.post(url, json={})

    run(main, AsyncBody(5, 2000))


def test_a_packed_body_within_them() -> None:
    async def main(client: Any) -> None:
        packed = whole(gzip.compress(b"x" * 2000), b"content-encoding: gzip\r\n")
        async with serving(lambda n, write: write(packed) or True) as (url, _):
            assert (await client.post(url, json={})).content == b"x" * 2000

    run(main, AsyncBody(5, 2000))


def test_a_proxy_in_the_environment_takes_the_usual_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert not isinstance(transport.http_client({}, 5)._transport, transport.Transport)
    monkeypatch.delenv("HTTPS_PROXY")
    assert isinstance(transport.http_client({}, 5)._transport, transport.Transport)


def test_certificates_are_checked() -> None:
    """A server that speaks no TLS is not spoken to, and one that does must show a certificate for its name."""

    async def main(client: Any) -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        with pytest.raises(httpx2.ConnectError):
            await client.post(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", json={})
        server.close()
        context = client._transport._ssl
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname

    run(main)
