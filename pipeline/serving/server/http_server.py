"""uvicorn in a thread, with limits on what a slow or silent client may hold.

The main thread loads the models and waits for signals: importing torch takes seconds, and a page that is opened in the
meantime sees that they are loading.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.run.open_files import connections_allowed
from pipeline.serving.server.gate import LARGEST_HEADERS

HEADER_SECONDS = 10.0  # for the headers of a request, and for the rest of a body that is not read
KEEP_ALIVE = 15  # seconds that a connection without a request stays open
STALLED_SECONDS = 60.0  # after which a client that reads nothing is cut off
ENDING_SECONDS = 5  # for answers when the server ends
CONNECTIONS = 1024  # besides those that generate or wait
LEAST = 16  # connections in all, even if the system allows fewer open files


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with time limits where it has none: for headers, and for clients that do not read.

    uvicorn discards what arrives of a body after the response, such as that of a request that is too large: a client
    that sends first and reads then sees the response. This has the same limit as headers.
    """

    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch(is_idle=True)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _watch(self, is_idle: bool = False) -> None:
        """Starts the clock when a request is awaited, and stops it when its headers are there.

        is_idle: nothing of the next request has come; how long that may take is uvicorn's own limit.
        """
        awaits_headers = self.conn.their_state is h11.IDLE
        discards = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if (awaits_headers and not is_idle) or discards:
            if self._timer is None:
                self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None


class HttpServer:
    """Serves an ASGI application in a separate thread.

    Args:
        listener: the socket; closed at the end. answers: that are generated or wait, at most.
    """

    def __init__(self, app: Any, listener: socket.socket, answers: int) -> None:
        self.listener = listener
        most = answers + CONNECTIONS
        config = uvicorn.Config(
            app, loop="asyncio", http=PatientProtocol, ws="none", lifespan="off", log_config=None, access_log=False,
            log_level="error", proxy_headers=False, server_header=False, h11_max_incomplete_event_size=LARGEST_HEADERS,
            limit_concurrency=min(most, max(LEAST, connections_allowed(most))), timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=ENDING_SECONDS,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([listener],), name="http", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def end(self) -> None:
        """Takes no more connections."""
        self.server.should_exit = True

    def join(self) -> None:
        """Waits for the responses that are being sent; `end` comes first."""
        if self.thread.is_alive():
            self.thread.join(2 * ENDING_SECONDS)
        self.listener.close()
