"""Hostile and unlucky clients: other sites, wrong tokens, huge and slow requests, full queues, clients that leave."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.prompt.any_encoder import AnyEncoder
from tests.helpers.scripted_engine import Reply, Served, says, served, wait_for

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.serving

ANSWER = "The sky is 파란색 today."
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Name a colour."}]}


def config(**serve: Any) -> Config:
    return Config.model_validate({"name": "tiny", "serve": serve})


@pytest.fixture
def server(encoder: AnyEncoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Two answers at once, and two that wait."""
    monkeypatch.setattr("pipeline.serving.server.http_server.KEEP_ALIVE", 1)
    with served(config(parallel=2, queue=2), encoder, says(encoder, ANSWER)) as running:
        yield running


def head(server: Served, length: int | str, more: str = "") -> bytes:
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def rest_of(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    data = b""
    while piece := connection.recv(65_536):
        data += piece
    return data


# Who asks


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_host_name_is_refused(server: Served, method: str) -> None:
    body = BODY if method == "POST" else None
    for path in ("/", "/health", "/v1/models", CHAT, "/metrics"):
        reply = server.ask(method, path, body, {"Host": f"evil.example:{server.port}"})
        assert (reply.status, reply.error["code"]) == (403, "host_not_allowed")
    assert server.engine.requests == []


def test_posts_from_other_sites_are_refused(server: Served) -> None:
    for path in (CHAT, "/v1/completions", "/suri/prompt"):
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{server.port + 1}"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert server.ask("POST", path, BODY, headers).status == 403, headers
    assert server.engine.requests == []
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert server.ask("POST", CHAT, BODY, own).status == 200


def test_no_page_of_another_site_may_read(server: Served) -> None:
    preflight = server.ask("OPTIONS", CHAT, None, {"Origin": "http://evil.example"})
    assert preflight.status == 403
    replies = [
        preflight,
        server.ask("GET", "/v1/models", None, {"Origin": "http://evil.example"}),
        server.chat(stream=True),
    ]
    for reply in replies:
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert "server" not in reply.headers


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_taken(server: Served, kind: str) -> None:
    reply = server.ask("POST", CHAT, json.dumps(BODY).encode(), {"Content-Type": kind})
    assert (reply.status, reply.error["code"]) == (415, "invalid_content_type")
    assert server.ask("POST", CHAT, BODY, {"Content-Type": "Application/JSON; charset=utf-8"}).status == 200


def test_a_token_is_demanded_and_never_shown(encoder: AnyEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    secret = "a-secret-of-this-test"
    logging.getLogger("uvicorn").setLevel(logging.DEBUG)
    with served(config(), encoder, says(encoder, ANSWER), token=secret) as server:
        right, wrong = {"Authorization": f"Bearer {secret}"}, {"Authorization": f"Bearer {secret}x"}
        for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/metrics"), ("GET", "/suri/info"),
                             ("GET", "/suri/run"), ("GET", "/nope"), ("POST", "/v1/completions")):  # fmt: skip
            body = BODY if method == "POST" else None
            for headers in ({}, wrong, {"Authorization": "Bearer"}, {"Authorization": secret}):
                reply = server.ask(method, path, body, headers)
                assert (reply.status, reply.error["code"]) == (401, "invalid_api_key"), path
                assert reply.headers["www-authenticate"] == "Bearer"
                assert secret.encode() not in reply.data
        assert server.engine.requests == []
        assert server.ask("POST", CHAT, BODY, right).status == 200
        assert server.ask("GET", "/health").status == 200
        assert secret.encode() not in server.ask("GET", "/metrics", None, right).data
        del server.state.loaded.engine.queue  # a fault: its traceback is printed
        assert server.ask("POST", CHAT, BODY, right).status == 500
    printed = capfd.readouterr()
    assert secret not in printed.out + printed.err


def test_a_fault_is_told_without_its_details(server: Served, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("details of the fault")

    server.engine.submit = broken  # type: ignore[assignment, method-assign]
    reply = server.chat()
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert b"details" not in reply.data
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "details of the fault" in capfd.readouterr().err
    assert 'status="500"' in server.ask("GET", "/metrics").data.decode()


# What is asked


def test_a_body_of_ten_megabytes_is_refused(server: Served) -> None:
    reply = server.ask("POST", CHAT, b'{"model": "' + b"x" * 10_000_000 + b'"}')
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert (
        server.ask("POST", CHAT, b" " * ((1 << 20) - len(json.dumps(BODY))) + json.dumps(BODY).encode()).status == 200
    )
    assert server.ask("POST", CHAT, b" " * (1 << 20) + json.dumps(BODY).encode()).status == 413
    assert server.state.bodies.held == 0


def test_a_body_in_chunks_is_refused_at_the_limit_too(server: Served) -> None:
    start = head(server, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    connection = server.raw(start)
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    for _ in range(20):
        connection.sendall(chunk)
    assert b" 413 " in connection.recv(65_536).split(b"\r\n")[0]
    connection.close()
    assert server.chat().status == 200


def test_a_client_that_asks_before_it_sends_need_not_send(server: Served) -> None:
    with server.raw(head(server, 10_000_000, "Expect: 100-continue\r\n")) as connection:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_deep_and_odd_json(server: Served) -> None:
    for data in (
        b"[" * 500_000,
        b'{"messages": ' * 50_000,
        b"{}x",
        b"\xff",
        b"",
        b'{"model": "tiny", "messages": [NaN]}',
    ):
        reply = server.ask("POST", CHAT, data)
        assert (reply.status, reply.error["code"]) == (400, "invalid_json")
    assert server.chat(temperature=10**30).status == 400
    assert server.chat("\0\ue000\U00100000\u202e<script>").status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n",
        b"\r\n" * 100 + b"\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http_ends_the_connection(server: Served, data: bytes) -> None:
    with server.raw(data) as connection:
        reply = (
            rest_of(connection)
            if not data.startswith(b"POST / HTTP/1.1\r\nHost: localhost\r\nT")
            else connection.recv(999)
        )
    assert reply.split(b"\r\n")[0].split(b" ")[1] in (b"400", b"403", b"404", b"405", b"413", b"431")
    assert server.chat().status == 200


def test_slow_clients_are_cut_off(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.serving.server import http_server, json_body

    monkeypatch.setattr(http_server, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(json_body, "SECONDS", 0.3)
    for begun in (b"", b"GET /health HTTP/1.1\r\nHost:"):
        with server.raw(begun) as connection:
            assert rest_of(connection) == b""
    with server.raw(head(server, 1000) + b'{"model": ') as connection:
        assert b" 408 " in rest_of(connection).split(b"\r\n")[0]
    answered = server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HT")
    assert rest_of(answered).count(b"HTTP/1.1 200") == 1  # the second request never came
    answered.close()


def test_a_slow_client_that_keeps_sending_has_its_request(server: Served) -> None:
    data = head(server, len(json.dumps(BODY))) + json.dumps(BODY).encode()
    with server.raw(data[:9]) as connection:
        for start in range(9, len(data), 40):
            connection.sendall(data[start : start + 40])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


# How long, how many


def occupied(server: Served, count: int) -> list[Any]:
    """Requests that are generated or wait, on open connections."""
    server.engine.gate.clear()
    connections = []
    for _ in range(count):
        connection = server.connect()
        connection.request("POST", CHAT, json.dumps(BODY), {"Content-Type": "application/json"})
        connections.append(connection)
        submitted = len(connections)
        wait_for(lambda: len(server.engine.requests) == submitted)  # noqa: B023
    return connections


def test_a_full_queue_is_503_with_a_time_to_wait(server: Served) -> None:
    connections = occupied(server, 4)
    for stream in (False, True):
        reply = server.chat(stream=stream)
        assert (reply.status, reply.error["code"], reply.error["type"]) == (503, "queue_full", "server_error")
        assert int(reply.headers["retry-after"]) > 0
    assert "suri_queue_refusals_total 2\n" in server.ask("GET", "/metrics").data.decode()
    assert "suri_answers_waiting 2\n" in server.ask("GET", "/metrics").data.decode()
    server.engine.gate.set()
    for connection in connections:
        assert Reply.of(connection.getresponse()).json["choices"][0]["message"]["content"] == ANSWER
        connection.close()
    assert server.chat().status == 200


def test_choices_get_all_their_slots_or_none(server: Served) -> None:
    connections = occupied(server, 2)
    assert server.chat(n=3).status == 503
    server.engine.gate.set()
    for connection in connections:
        assert Reply.of(connection.getresponse()).status == 200
        connection.close()
    reply = server.chat(n=8)
    assert (reply.status, reply.error["code"]) == (400, "array_above_max_length")
    wait_for(lambda: server.engine.status().running == 0)
    assert server.chat(n=4).status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_a_client_that_leaves_frees_its_slot(server: Served, stream: bool, waits: bool) -> None:
    others = occupied(server, 2 if waits else 0)
    server.engine.gate.clear()
    connection = server.connect()
    connection.request("POST", CHAT, json.dumps({**BODY, "stream": stream}), {"Content-Type": "application/json"})
    count = len(others) + 1
    wait_for(lambda: len(server.engine.requests) == count)
    ticket = (server.engine._waiting if waits else server.engine._running)[-1]
    cancelled = (ticket[-1] if isinstance(ticket, tuple) else ticket).cancelled
    connection.close()
    assert cancelled.wait(1.0)  # the engine is told within a second
    server.engine.gate.set()
    wait_for(lambda: server.engine.status().running == 0)
    for other in others:
        assert Reply.of(other.getresponse()).status == 200
        other.close()


def test_a_client_that_leaves_in_the_middle_of_a_stream(server: Served) -> None:
    server.engine.script = lambda request: [5] * 100_000
    server.engine.pause = 0.001
    connection = server.connect()
    connection.request("POST", CHAT, json.dumps({**BODY, "stream": True}), {"Content-Type": "application/json"})
    assert b"assistant" in connection.getresponse().read(300)
    connection.close()
    wait_for(lambda: server.engine.status().running == 0)
    assert server.engine._new_tokens < 100_000


def test_time_is_limited(encoder: AnyEncoder) -> None:
    with served(config(timeout=1), encoder, lambda request: [5] * 100_000) as server:
        server.engine.gate.clear()
        reply = server.chat()
        assert (reply.status, reply.error["code"]) == (504, "timeout")
        assert reply.headers["x-should-retry"] == "false"
        assert server.chat(stream=True).events[-1]["error"]["code"] == "timeout"
        server.engine.gate.set()
        server.engine.pause = 0.05
        choice = server.chat(max_tokens=100).json["choices"][0]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "timeout")
        assert set(choice["message"]["content"]) == {"#"}
        last = server.chat(stream=True, max_tokens=100).events[-2]["choices"][0]
        assert (last["finish_reason"], last["stop_reason"]) == ("length", "timeout")
        wait_for(lambda: server.engine.status().running == 0)


def test_two_hundred_clients_at_once(encoder: AnyEncoder) -> None:
    with served(config(), encoder, says(encoder, ANSWER)) as server:
        server.engine.gate.clear()
        answered = threading.Semaphore(0)

        def ask(number: int) -> tuple[int, bytes]:
            reply = server.chat(f"Question {number}?", stream=number % 2 == 0)
            answered.release()
            return reply.status, reply.data

        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            futures = [pool.submit(ask, number) for number in range(200)]
            for _ in range(200 - 72):  # 8 are generated and 64 wait; the others are refused at once
                assert answered.acquire(timeout=30)
            server.engine.gate.set()
            results = [future.result() for future in futures]
        assert sorted(status for status, _ in results) == [200] * 72 + [503] * 128
        assert all(
            b"today" in data or b'" today' in data or b"day" in data for status, data in results if status == 200
        )
        assert server.engine.status().running == server.engine.status().waiting == 0
        assert server.state.preparing == server.state.bodies.held == 0
        assert server.chat().status == 200


def test_the_end_of_the_server_ends_streams_with_an_error(encoder: AnyEncoder) -> None:
    with served(config(), encoder, lambda request: [5] * 100_000) as server:
        server.engine.pause = 0.01
        connection = server.connect()
        connection.request("POST", CHAT, json.dumps({**BODY, "stream": True}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        wait_for(lambda: server.engine._new_tokens > 3)
    assert b'"code":"shutting_down"' in response.read().split(b"\n\n")[-2]
    connection.close()
