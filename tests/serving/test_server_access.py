"""Host names, origins, the token, and the port."""

from __future__ import annotations

import socket

import pytest

from pipeline.config.serving import Serve
from pipeline.run.errors import UserError
from pipeline.serving.server.access import Access
from pipeline.serving.server.listening import address_of, bind, listen


def access(host: str = "127.0.0.1", token: str = "", **environment: str) -> Access:
    return Access.of(Serve(host=host, token=token), environment)


@pytest.mark.parametrize(
    "header", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "localhost.", "127.0.0.1"]
)
def test_names_of_this_machine_are_allowed(header: str) -> None:
    assert access().allows_host(header)


@pytest.mark.parametrize(
    "header",
    ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "192.168.0.7:8000", "127.0.0.1:x",
     "user@localhost", "localhost/evil", "localhost:8000:9", "evil.example, localhost", "[::1", "10.0.0.1"],
)  # fmt: skip
def test_other_names_are_not(header: str) -> None:
    assert not access().allows_host(header)


def test_a_server_for_other_machines_answers_under_addresses_and_its_own_name() -> None:
    shared = access("0.0.0.0", SURI_TOKEN="secret")
    for header in ("192.168.0.7:8000", "[fe80::1]:8000", f"{socket.gethostname()}:8000", "localhost"):
        assert shared.allows_host(header), header
    assert not shared.allows_host("evil.example")
    assert access("box.example", SURI_TOKEN="secret").allows_host("Box.Example:80")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(UserError, match="there is no token") as caught:
        access(host)
    assert "SURI_TOKEN" in caught.value.fix
    assert access(host, SURI_TOKEN="secret").token == "secret"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_this_machine_needs_none(host: str) -> None:
    assert access(host).token == ""
    assert access(host).allows_token("")


def test_the_token_is_read_from_the_variable_that_is_named() -> None:
    assert access(token="MINE", MINE=" secret \n", SURI_TOKEN="other").token == "secret"
    with pytest.raises(UserError, match="MINE holds no token"):
        access(token="MINE")
    for unfit in ("two words", "한글", "a\nb"):
        with pytest.raises(UserError, match="no HTTP header can carry") as caught:
            access(SURI_TOKEN=unfit)
        assert unfit not in str(caught.value)


def test_only_the_token_itself_is_taken() -> None:
    guarded = access(SURI_TOKEN="secret")
    assert guarded.allows_token("Bearer secret")
    assert guarded.allows_token("bearer  secret")
    for header in (
        "",
        "secret",
        "Bearer",
        "Bearer secre",
        "Bearer secrets",
        "Basic secret",
        "Bearer sécret",
        "Bearer Secret",
    ):
        assert not guarded.allows_token(header), header


def test_origins() -> None:
    local = access()
    assert local.allows_origin("", "localhost:8000")
    assert local.allows_origin("http://localhost:8000", "localhost:8000")
    for origin in (
        "http://evil.example",
        "http://localhost:9000",
        "null",
        "localhost:8000",
        "file://",
        "http://localhost",
    ):
        assert not local.allows_origin(origin, "localhost:8000"), origin


def test_a_port_in_use_is_named_with_another_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use") as caught:
            bind(Serve(port=port))
        assert f"serve.port={port + 1}" in caught.value.fix


def test_a_port_taken_between_bind_and_listen_is_told_too() -> None:
    first = bind(Serve(port=0))
    settings = Serve(port=first.getsockname()[1])
    with first, bind(settings) as second:
        listen(first, settings)
        with pytest.raises(UserError, match="is in use"):
            listen(second, settings)


@pytest.mark.parametrize("host", ["no such host", "203.0.113.9", "a" * 300])
def test_an_address_that_is_not_this_machines_is_refused(host: str) -> None:
    with pytest.raises(UserError) as caught:
        bind(Serve(host=host, port=0))
    assert caught.value.where == "serve.host"


def test_the_address_is_one_that_a_browser_here_can_open() -> None:
    with bind(Serve(port=0)) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener, "0.0.0.0") == f"http://127.0.0.1:{port}"
        assert address_of(listener, "::1") == f"http://[::1]:{port}"
        assert address_of(listener, "localhost") == f"http://localhost:{port}"
