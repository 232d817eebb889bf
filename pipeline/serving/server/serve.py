"""`make serve` and `make ui`: the server from its start to its end.

port ─> [export is made or current] ─> page and /health answer ─> models are loaded ─> requests ─> Ctrl-C
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import Any

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.interrupt import answering
from pipeline.run.progress import say, working
from pipeline.serving.engine.request import Engine
from pipeline.serving.engine.served_model import ServedModel
from pipeline.serving.server.access import Access
from pipeline.serving.server.app import make_app
from pipeline.serving.server.http_server import HttpServer
from pipeline.serving.server.listening import address_of, listen
from pipeline.serving.server.state import Loaded, ServerState
from pipeline.store.folder import Store

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP = "stop"

Load = Callable[[], tuple[Engine, list[ServedModel]]]


def serves_export(config: Config) -> bool:
    """Whether the run's export is among the models."""
    return not config.serve.models or config.name in config.serve.models


def serve(config: Config, run: Run, access: Access, listener: socket.socket, page: bool = False) -> None:
    """Serves until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        page: whether the page is what the user wants: its address is shown, and a browser opened where there is one.

    Raises:
        UserError: the models cannot be loaded, or a file of the export has changed.
    """
    listen(listener, config.serve)
    state = ServerState(config, run, access)
    http = HttpServer(make_app(state), listener, config.serve.parallel + config.serve.queue)
    address = address_of(listener, config.serve.host)

    def load() -> tuple[Engine, list[ServedModel]]:
        with working("serve: loading torch and transformers"):
            from pipeline.serving.engine.open import open_engine
        if serves_export(config):
            run.check("export")
        with working("serve: loading the models"):
            return open_engine(config, run, Store.here())

    with _Events() as events, answering(lambda: "serve: ending the answers that are being generated"):
        try:
            http.start()
            say(f"serve: {address} answers; loading the models")
            if page:
                show_page(address)
            events.load(load)
            while (event := events.next()) != STOP:
                if isinstance(event, BaseException):
                    raise event
                state.loaded = Loaded.of(*event)
                _tell(state, address, page)
        finally:
            end(state, http)
        say("serve: stopped")
        events.leave()


def end(state: ServerState, http: HttpServer) -> None:
    """Ends all answers and then the connections."""
    loaded, state.loaded = state.loaded, None
    http.end()
    if loaded is not None:
        loaded.engine.close()
    http.join()
    state.prompts.shutdown(wait=False, cancel_futures=True)


class _Events:
    """What the main thread waits for: the models are loaded, or a signal came.

    A signal's handler raises nothing: it may run inside a callback of the interpreter, where an exception is lost. So
    the models are loaded by another thread, and the main thread is free.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()  # whose `put` a handler may call
        self._loader: threading.Thread | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Events:
        self._before = {number: signal.signal(number, lambda *_: self._queue.put(STOP)) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def load(self, load: Load) -> None:
        def run() -> None:
            try:
                self._queue.put(load())
            except BaseException as error:
                self._queue.put(error)

        self._loader = threading.Thread(target=run, name="loading", daemon=True)
        self._loader.start()

    def next(self) -> Any:
        """STOP, what was loaded, or the error with which loading ended."""
        return self._queue.get()

    def leave(self) -> None:
        """Ends the process where the models are still being loaded: the interpreter cannot end a thread in the middle
        of a library's code, and nothing is being written."""
        if self._loader is not None and self._loader.is_alive():
            sys.stdout.flush()
            os._exit(0)


def _tell(state: ServerState, address: str, page: bool) -> None:
    loaded = state.ready()
    for model in loaded.models.values():
        note = f" ({model.note})" if model.note else ""
        say(f"  {model.name}: {model.kind}, template {model.encoder.template.id}, {model.context:,} tokens{note}")
    what = f"the page: {address}" if page else f"OpenAI's API: {address}/v1, the page: {address}"
    token = "; every request needs the token" if state.access.token else ""
    say(f"serve: ready. {what}{token}")
    say("serve: Ctrl-C ends it")


def show_page(address: str) -> None:
    """Says where the page is, and opens it where a desktop is likely to have a browser."""
    line = f"  Open {address} in a browser"
    say("\n" + line + "\n")
    remote = any(os.environ.get(name) for name in ("SSH_CONNECTION", "CI"))
    desktop = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if desktop and not remote and sys.stdout.isatty():
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(address)
