"""`make serve` as a process: what stops it at the start, when it answers, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from tests.helpers.scripted_engine import wait_for

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.serving

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds; torch alone takes 20 on a busy machine


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def process(
    tuned: tuple[Config, Run], *settings: str, command: str = "serve", **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """The command on a run that has its export; killed at the end if it still runs."""
    root = tuned[1].root.parent
    known = f"eval.known={root / 'known.jsonl'}"
    clean = {k: v for k, v in os.environ.items() if k not in ("SURI_TOKEN", "DISPLAY", "WAYLAND_DISPLAY")}
    started = subprocess.Popen(
        [sys.executable, "-m", f"scripts.{command}", f"--config={root / 'tiny.yaml'}", known, *settings],
        cwd=ROOT, env={**clean, "RUNS": str(root), **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def answer(url: str, body: Any = None, token: str = "") -> tuple[int, Any]:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_while_it_loads_and_ends_by_a_signal(tuned: tuple[Config, Run], number: signal.Signals) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process(tuned, f"serve.port={port}", SURI_TOKEN="a-token-of-this-test") as server:
        wait_for(lambda: answer(f"{url}/health")[0] in (200, 503), PATIENCE)
        with urllib.request.urlopen(url, timeout=30) as page:
            assert b"<!doctype html>" in page.read(100)
        wait_for(lambda: answer(f"{url}/health")[0] == 200, PATIENCE)
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 3}
        assert answer(f"{url}/v1/chat/completions", body)[0] == 401
        status, reply = answer(f"{url}/v1/chat/completions", body, "a-token-of-this-test")
        assert (status, reply["usage"]["completion_tokens"]) == (200, 3)
        server.send_signal(number)
        out, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    assert f"{url}/v1" in out
    assert "serve: stopped" in out
    assert "Traceback" not in err
    assert "a-token-of-this-test" not in out + err


def test_a_signal_while_it_loads_ends_it(tuned: tuple[Config, Run]) -> None:
    port = free_port()
    with process(tuned, f"serve.port={port}", command="ui") as server:
        wait_for(lambda: answer(f"http://127.0.0.1:{port}/health")[0] == 503, PATIENCE)
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    assert f"Open http://127.0.0.1:{port} in a browser" in out
    assert "Traceback" not in err


def refused(tuned: tuple[Config, Run], *settings: str, **environment: str) -> str:
    with process(tuned, *settings, **environment) as server:
        out, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 2
    assert out == ""  # before any stage is looked at
    assert "Traceback" not in err
    return err


def test_a_port_in_use_is_told_before_anything_is_loaded(tuned: tuple[Config, Run]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(tuned, f"serve.port={port}")
    assert f"port {port} is in use" in message
    assert f"serve.port={port + 1}" in message


def test_other_machines_without_a_token_are_refused(tuned: tuple[Config, Run]) -> None:
    assert "there is no token" in refused(tuned, "serve.host=0.0.0.0")
    assert "MINE holds no token" in refused(tuned, "serve.token=MINE", MINE="")


def test_a_model_that_cannot_be_loaded_ends_the_server(tuned: tuple[Config, Run]) -> None:
    with process(tuned, f"serve.port={free_port()}", "serve.models=[base, nope]") as server:
        _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 2
    assert "no model is called 'nope'" in err
    assert "Traceback" not in err
