"""`make serve` and `make ui`: the server from its start to its end.

port ─> [export is made or current] ─> page and /health answer ─> models are loaded ─> requests ─> Ctrl-C
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from typing import Any

from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.interrupt import answering
from pipeline.run.progress import say, working
from pipeline.serving.server.access import Access
from pipeline.serving.server.app import make_app
from pipeline.serving.server.http_server import HttpServer
from pipeline.serving.server.listening import address_of, listen
from pipeline.serving.server.state import Loaded, ServerState
from pipeline.store.folder import Store

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stop(BaseException):
    """A signal that ends the server; not an Exception, so that no library takes it for an error."""


def serve(config: Config, run: Run, access: Access, listener: socket.socket, page: bool = False) -> None:
    """Serves until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        page: whether the page is what the user wants: its address is shown, and a browser opened where there is one.

    Raises:
        UserError: the models cannot be loaded.
    """
    listen(listener, config.serve)
    state = ServerState(config, run, access)
    http = HttpServer(make_app(state), listener, config.serve.parallel + config.serve.queue)
    address = address_of(listener, config.serve.host)
    try:
        with _signals(), answering(lambda: "serve: ending the answers that are being generated"):
            http.start()
            say(f"serve: {address} answers; loading the models")
            if page:
                show_page(address)
            with working("serve: loading torch and transformers"):
                from pipeline.serving.engine.open import open_engine
            with working("serve: loading the models"):
                engine, models = open_engine(config, run, Store.here())
            state.loaded = Loaded.of(engine, models)
            _tell(state, address, page)
            threading.Event().wait()
    except _Stop:
        say("serve: stopped")
    finally:
        end(state, http)


def end(state: ServerState, http: HttpServer) -> None:
    """Ends all answers and then the connections."""
    loaded, state.loaded = state.loaded, None
    http.end()
    if loaded is not None:
        loaded.engine.close()
    http.join()
    state.prompts.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """The signals that end the server, wherever it is."""

    def stop(number: int, frame: Any) -> None:
        raise _Stop

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
