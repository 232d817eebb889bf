"""What a judge's server may cost: bytes, time and depth of a reply are bounded, and it is one message."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.api.body import MOST, Unbounded, bounded
from pipeline.api.endpoint import Endpoint
from pipeline.config.schema import Judge
from pipeline.run.errors import UserError
from tests.helpers.judge_server import completion

ASKED = [{"role": "user", "content": "A or B?"}]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
FINE = json.dumps(completion("Verdict: A")).encode()


@pytest.fixture
def openai() -> None:
    pytest.importorskip("openai", reason="needs openai (extra `judge`)")


@contextmanager
def sending(answer: Callable[[Callable[[bytes], object]], None]) -> Iterator[str]:
    """A server whose reply to every request is what `answer` sends."""
    server = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                try:
                    while not connection.recv(1 << 16).endswith(b"}"):
                        pass
                    answer(connection.sendall)
                except OSError:  # the client went away, as it should
                    pass

    threading.Thread(target=work, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def ask(url: str) -> str:
    endpoint = Endpoint(Judge(model="j", base_url=url, retries=0, timeout=1))
    try:
        return endpoint.reply(ASKED)[0]
    finally:
        endpoint.close()


def whole(body: bytes, head: bytes = b"") -> Callable[[Callable[[bytes], object]], None]:
    return lambda send: send(HEAD + head + b"\r\n" + body) and None


@pytest.mark.judge
@pytest.mark.usefixtures("openai")
@pytest.mark.parametrize(
    ("body", "head"),
    [
        (FINE, b""),
        (gzip.compress(FINE), b"content-encoding: gzip\r\n"),
        (zlib.compress(FINE), b"Content-Encoding: Deflate\r\n"),
    ],
)
def test_a_reply_within_bounds(body: bytes, head: bytes) -> None:
    with sending(whole(body, head)) as url:
        assert ask(url) == "Verdict: A"


@pytest.mark.judge
@pytest.mark.usefixtures("openai")
@pytest.mark.parametrize(
    ("body", "head", "said"),
    [
        (b" " * (MOST + 1) + FINE, b"", "larger than"),
        (gzip.compress(b" " * (64 << 20)), b"content-encoding: gzip\r\n", "larger than"),
        (b"x", b"content-encoding: br\r\n", "packed"),
        (b"x" * 9, b"content-encoding: gzip\r\n", "damaged"),
        (b"[" * 200_000, b"", "nested too deeply"),
        (b'{"choices": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}", b"", "API"),
        (b'{"choices": [' + b"9" * 10_000 + b"]}", b"", "API"),
    ],
)
def test_a_reply_beyond_them(body: bytes, head: bytes, said: str) -> None:
    with sending(whole(body, head)) as url, pytest.raises(UserError, match=said) as caught:
        ask(url)
    assert caught.value.where == url


@pytest.mark.judge
@pytest.mark.usefixtures("openai")
@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nx: ", HEAD + b"\r\n{"])
def test_a_reply_that_trickles(begin: bytes) -> None:
    def trickle(send: Callable[[bytes], object]) -> None:
        send(begin)
        while True:
            time.sleep(0.1)
            send(b" ")

    start = time.monotonic()
    with sending(trickle) as url, pytest.raises(UserError, match="1 s"):
        ask(url)
    assert time.monotonic() - start < 30


def test_bytes_are_unpacked_no_further_than_the_bound() -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    with pytest.raises(Unbounded):
        next(bounded([bomb], 9, packed=True))
    assert sum(map(len, bounded([gzip.compress(b" " * MOST)], 9, packed=True))) == MOST
