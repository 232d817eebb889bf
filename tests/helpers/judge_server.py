"""A server on this machine that speaks the shape of the chat API, for tests of `make judge`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERS = re.compile(r"<a-\w+>\n(.*?)\n</a-\w+>.*<b-\w+>\n(.*?)\n</b-\w+>", re.DOTALL)


def completion(text: Any) -> dict[str, Any]:
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "judge",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip


def longer(first: str, second: str) -> str:
    """A judge that likes what is longer, in whatever order it stands."""
    if len(first) == len(second):
        return "Both the same.\nVerdict: tie"
    return f"Reasons.\nVerdict: {'A' if len(first) > len(second) else 'B'}"


@dataclass
class Server:
    """says: the reply's text for answers A and B, or (status, body) for a failure; it is also told the call's number.
    calls: what was asked, with the headers."""

    url: str
    says: Callable[[int, str, str], Any]
    calls: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)


@contextmanager
def serving(says: Callable[[int, str, str], Any]) -> Iterator[Server]:
    """Runs until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                found.calls.append((body, {k.lower(): v for k, v in self.headers.items()}))
                number = len(found.calls)
            match = ANSWERS.search(body["messages"][1]["content"])
            first, second = match.groups() if match else ("", "")
            made = found.says(number, first, second)
            status, sent = made if isinstance(made, tuple) else (200, completion(made))
            data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
            self.send_response(status)
            self.send_header("content-type", "text/html" if isinstance(sent, bytes) else "application/json")
            self.send_header("content-length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Server(f"http://127.0.0.1:{http.server_port}/v1", says)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
