"""An engine that generates what a test says, at the pace that the test sets; and a server over it on 127.0.0.1."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.run.folder import Run
from pipeline.serving.engine.request import (
    Engine,
    EngineStatus,
    Event,
    Finished,
    Full,
    GenerationRequest,
    Listener,
    NewToken,
)
from pipeline.serving.engine.served_model import ServedModel

Script = Callable[[GenerationRequest], Sequence[int]]
PATIENCE = 20.0  # seconds after which a test gives up waiting


class ScriptedTicket:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class ScriptedEngine:
    """Each request gets the ids of a script, one a step; a thread for each slot that is in use.

    Attributes:
        requests: as they were submitted. pause: seconds before each token. gate: tokens come only while it is set.
        failure: a sentence with which every request fails.
    """

    def __init__(self, script: Script, slots: int = 8, queue: int = 64) -> None:
        self.script, self.slots, self.queue = script, slots, queue
        self.requests: list[GenerationRequest] = []
        self.pause, self.failure = 0.0, ""
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Condition()
        self._waiting: list[tuple[GenerationRequest, Listener, ScriptedTicket]] = []
        self._running: list[ScriptedTicket] = []
        self._prompt_tokens = self._new_tokens = 0
        self.closed = False

    def submit(self, request: GenerationRequest, listener: Listener) -> ScriptedTicket:
        with self._lock:
            if self.closed or len(self._waiting) >= self.queue + self.slots - len(self._running):
                raise Full
            ticket = ScriptedTicket()
            self.requests.append(request)
            self._waiting.append((request, listener, ticket))
            if len(self._running) < self.slots:
                self._start()
        return ticket

    def status(self) -> EngineStatus:
        with self._lock:
            return EngineStatus(
                len(self._running), len(self._waiting), self.slots, self._prompt_tokens, self._new_tokens
            )

    def close(self) -> None:
        with self._lock:
            self.closed = True
            for ticket in [*self._running, *(ticket for *_, ticket in self._waiting)]:
                ticket.cancel()
            for _, listener, _ in self._waiting:
                listener(Finished("cancelled"))
            self._waiting.clear()

    def _start(self) -> None:
        request, listener, ticket = self._waiting.pop(0)
        self._running.append(ticket)
        self._prompt_tokens += len(request.ids)
        threading.Thread(target=self._generate, args=(request, listener, ticket), daemon=True).start()

    def _generate(self, request: GenerationRequest, listener: Listener, ticket: ScriptedTicket) -> None:
        listener(self._events(request, listener, ticket))
        with self._lock:
            self._running.remove(ticket)
            if self._waiting:
                self._start()

    def _events(self, request: GenerationRequest, listener: Listener, ticket: ScriptedTicket) -> Event:
        if self.failure:
            return Finished("error", self.failure)
        for count, id in enumerate(self.script(request), 1):
            while not self.gate.wait(0.01) and not ticket.cancelled.is_set():
                pass
            if ticket.cancelled.wait(self.pause) if self.pause else ticket.cancelled.is_set():
                return Finished("cancelled")
            scored = request.top_logprobs is not None
            top = tuple((id + k, -0.5 - k) for k in range(request.top_logprobs or 0))
            listener(NewToken(id, -0.5 if scored else None, top))
            self._new_tokens += 1
            if id in request.end_ids:
                return Finished("stop")
            if count == request.max_tokens:
                return Finished("length")
        return Finished("stop")


def says(encoder: AnyEncoder, text: str) -> Script:
    """A script that writes a text and the end token."""
    ids = (*encoder.tokenizer.encode_after([text])[0], encoder.end_id)
    return lambda request: ids


@dataclasses.dataclass
class Served:
    """A server that runs. url: without a path."""

    host: str
    port: int
    engine: ScriptedEngine
    state: Any
    encoder: AnyEncoder

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own. body: bytes as they are, or a value that becomes JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        more = {"Content-Type": "application/json"} if data is not None else {}
        connection = self.connect()
        try:
            connection.request(method, path, data, {**more, **(headers or {})})
            return Reply.of(connection.getresponse())
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> Reply:
        return self.ask("POST", path, body)

    def chat(self, text: str = "Name a colour.", **more: Any) -> Reply:
        return self.post("/v1/chat/completions", model="tiny", messages=[{"role": "user", "content": text}], **more)

    def raw(self, data: bytes) -> socket.socket:
        """A connection that has sent some bytes."""
        connection = socket.create_connection((self.host, self.port), timeout=PATIENCE)
        connection.sendall(data)
        return connection


@dataclasses.dataclass
class Reply:
    status: int
    headers: dict[str, str]
    data: bytes

    @classmethod
    def of(cls, response: HTTPResponse) -> Reply:
        return cls(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.json["error"])

    @property
    def events(self) -> list[Any]:
        """Of a stream; `[DONE]` as text."""
        lines = self.data.decode().split("\n\n")
        assert lines.pop() == ""
        assert all(line.startswith("data: ") for line in lines)
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.005)


@contextmanager
def served(
    config: Config, encoder: AnyEncoder, script: Script, *, root: Path = Path("no-run"), token: str = "",
    context: int = 200, loaded: bool = True,
) -> Iterator[Served]:  # fmt: skip
    """A server over a scripted engine with the models `tiny`, `base` and `other`.

    Args:
        root: run folder. loaded: whether the models are loaded.
    """
    engine = ScriptedEngine(script, config.serve.parallel, config.serve.queue)
    kinds = {"tiny": "export", "base": "base", "other": "adapter"}
    ends = frozenset({encoder.end_id})
    models = [ServedModel(name, kind, encoder, ends, context) for name, kind in kinds.items()]  # type: ignore[arg-type]
    with served_engine(config, Run(root), engine, models if loaded else None, token) as (host, port, state):
        yield Served(host, port, engine, state, encoder)


@contextmanager
def served_engine(
    config: Config, run: Run, engine: Engine, models: Sequence[ServedModel] | None, token: str = ""
) -> Iterator[tuple[str, int, Any]]:
    """A server over any engine, which is closed at the end; its host, its port and its state."""
    from pipeline.serving.server.access import Access
    from pipeline.serving.server.app import make_app
    from pipeline.serving.server.http_server import HttpServer
    from pipeline.serving.server.listening import bind, listen
    from pipeline.serving.server.state import Loaded, ServerState

    settings = config.serve.model_copy(update={"port": 0})
    access = Access.of(settings, {"SURI_TOKEN": token} if token else {})
    state = ServerState(config, run, access)
    if models is not None:
        state.loaded = Loaded.of(engine, models)
    listener = bind(settings)
    listen(listener, settings)
    http = HttpServer(make_app(state), listener, config.serve.parallel + config.serve.queue)
    http.start()
    host, port = listener.getsockname()[:2]
    try:
        yield host, port, state
    finally:
        http.end()
        engine.close()
        http.join()
        state.prompts.shutdown()
        assert not http.thread.is_alive()
