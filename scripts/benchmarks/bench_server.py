"""Measures `make serve` from outside: `python -m scripts.benchmarks.bench_server CONFIG [key=value ...]`.

Starts the server of a config on a free port and prints: seconds until the page and until the models are ready, the
slowest reply in between; time to the first token of a prompt of about 200 tokens, and tokens a second of 1, 8 and 64
clients; how soon a slot is free after its client left; and what 200 clients at once get, with the memory after it.

`python -m scripts.benchmarks.bench_server URL MODEL` measures the clients alone against another server of OpenAI's API,
such as `transformers serve`: `... http://127.0.0.1:8123/v1 .cache/base/...`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from pipeline.command import guarded
from pipeline.run.errors import UserError
from pipeline.run.progress import say

PROMPT = "Tell me about the history of bread, and how it is made today in different countries. " * 10
TOKENS = 64  # of each answer
CLIENTS = (1, 8, 64)
CROWD = 200
PATIENCE = 600.0  # seconds


@dataclass(frozen=True)
class Target:
    """A server of OpenAI's API. path: in front of `/chat/completions`."""

    host: str
    port: int
    path: str
    model: str

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = self.connect()
        with contextlib.closing(connection):
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def stream(self, connection: http.client.HTTPConnection, tokens: int) -> http.client.HTTPResponse:
        """A streamed answer that has been asked for."""
        messages = [{"role": "user", "content": PROMPT}]
        body = {"model": self.model, "messages": messages, "max_tokens": tokens, "stream": True}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"{self.path}/chat/completions", json.dumps(body), headers)
        return connection.getresponse()


@dataclass(frozen=True)
class Streamed:
    """status: of HTTP. first: seconds until the first text. pieces: of text, about one a token."""

    status: int
    first: float
    pieces: int


def ask(target: Target, tokens: int = TOKENS) -> Streamed:
    """Reads one streamed answer to its end."""
    started, first, pieces = time.perf_counter(), 0.0, 0
    with contextlib.closing(target.connect()) as connection:
        reply = target.stream(connection, tokens)
        for line in reply:
            choices = json.loads(line[6:]).get("choices") if line.startswith(b"data: {") else None
            if choices and choices[0]["delta"].get("content"):
                first = first or time.perf_counter() - started
                pieces += 1
        return Streamed(reply.status, first, pieces)


def clients(target: Target) -> Iterator[tuple[str, str]]:
    """Time to the first token, and tokens a second of several clients, each with two requests."""
    ask(target, 4)
    for count in CLIENTS:
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            started = time.perf_counter()
            answers = list(pool.map(lambda _: ask(target), range(2 * count)))
            seconds = time.perf_counter() - started
        whole = [answer for answer in answers if answer.pieces]
        first = statistics.median(answer.first for answer in whole) if whole else 0.0
        total = sum(answer.pieces for answer in answers)
        refused = f", {len(answers) - len(whole)} refused" if len(whole) < len(answers) else ""
        yield f"{count} clients", f"first token {first:.2f} s, {total / seconds:.1f} pieces/s{refused}"


def left(target: Target) -> Iterator[tuple[str, str]]:
    """Seconds until a slot is free after its client left."""
    for _ in range(3):
        connection = target.connect()
        target.stream(connection, 1024).read(400)
        connection.close()
        started = time.perf_counter()
        while b"suri_answers_running 0\n" not in target.get("/metrics")[1]:
            time.sleep(0.005)
        yield "client left, slot free", f"{time.perf_counter() - started:.3f} s"


def crowd(target: Target, process: psutil.Process) -> Iterator[tuple[str, str]]:
    """What many clients at once get, twice, with the memory after it."""
    for _ in range(2):
        before = process.memory_info().rss
        with concurrent.futures.ThreadPoolExecutor(CROWD) as pool:
            statuses = Counter(a.status for a in pool.map(lambda _: ask(target, 8), range(CROWD)))
        after = process.memory_info().rss
        shown = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
        yield f"{CROWD} clients at once", f"{shown}; memory {before / 1e6:,.0f} -> {after / 1e6:,.0f} MB"


@contextlib.contextmanager
def started(words: Sequence[str]) -> Iterator[tuple[Target, psutil.Process]]:
    """The server of a config on a free port, ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", "serve", *words, f"serve.port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    target = Target("127.0.0.1", port, "/v1", "")
    try:
        status, slowest = 0, 0.0
        while status != 200:
            if process.poll() is not None:
                raise UserError("the server did not start", " ".join(words), "see its message above")
            asked = time.perf_counter()
            try:
                page = status != 0 or target.get("/")[0] == 200
                status = target.get("/health")[0]
            except OSError:
                page = False
            if page and not slowest:
                say(f"page: {time.perf_counter() - begin:.2f} s")
            slowest = max(slowest, time.perf_counter() - asked) if page else 0.0
            time.sleep(0.01)
        say(f"ready: {time.perf_counter() - begin:.2f} s; slowest reply while loading: {slowest:.2f} s")
        info: Any = json.loads(target.get("/suri/info")[1])
        yield Target("127.0.0.1", port, "/v1", info["default_model"]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def main(words: Sequence[str]) -> None:
    """Prints one line a measurement."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    say(f"{os.cpu_count()} cores, load {load}")
    if words and words[0].startswith("http"):
        url = urlsplit(words[0])
        lines = clients(Target(url.hostname or "", url.port or 80, url.path.rstrip("/"), words[1]))
        for name, value in lines:
            say(f"{name}: {value}")
        return
    with started(words or ["configs/demo.yaml"]) as (target, process):
        for part in (clients(target), left(target), crowd(target, process)):
            for name, value in part:
                say(f"{name}: {value}")


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(sys.argv[1:])))
