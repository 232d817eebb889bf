"""A server with the endpoints that the page of `make ui` uses, and scripted answers; standard library only.

`python -m tests.helpers.ui_server [PORT]` serves the page to look at.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.run.files import json_lines
from pipeline.serving.page.page import content_security_policy, page

HASH = "3f2a9c41d07be6552f0a"
ANSWERS = {
    "demo": "Thank you for watering the plants while we were away.\n\nThey look better than when we left, and the "
    "basil has doubled in size. Come by on Saturday: the kettle is on, and there is cake from the corner bakery.",
    "base": "Write a note of three sentences to the neighbours.\n\n### Instruction:\nWrite a note of three sentences "
    "to the neighbours.\n\n### Response:\nWrite a note of three sentences to the",
    "poems": "Green leaves you kept, and kept them well;\nthe house has still a garden's smell.",
}
KOREAN = "안녕하세요. 오늘 이사 온 402호입니다. 작은 떡을 준비했으니 맛있게 드세요. 앞으로 잘 부탁드립니다."
QUESTIONS = [
    {"language": language, "instruction": row["instruction"], "input": row["input"]}
    for language in ("en", "ko")
    for row in list(json_lines(Path(__file__).parents[2] / "data" / f"questions_{language}.jsonl"))[:3]
]
COLUMNS = ["", "base", "tuned"]
ROWS = [
    ["held-out rows: loss (64 rows)", "2.363", "0.116"],
    ["held-out rows: exact match (64 answers)", "4.7%", "89.1% ± 3.9%"],
    ["held-out rows: stopped by itself", "53.1%", "100.0%"],
    ["general text: perplexity", "15.8", "16.4"],
]


@dataclass
class Script:
    """What the server does.

    Attributes:
        answers: text by model; a Korean question gets `korean`. pace: seconds between two pieces. piece: characters of
            one. limit: pieces after which an answer ends as `length`; 0 = none. gate: pieces wait while it is closed.
        context: tokens of the models. token: what requests must carry. busy: requests that get 503 first.
        loading: whether /health says 503. breaks_after: pieces after which the connection is closed; 0 = never.
        turns: whether the template has turns. models: names. rows: of the table of results. requests: bodies of those
            for answers.
    """

    answers: dict[str, str] = field(default_factory=lambda: dict(ANSWERS))
    korean: str = KOREAN
    pace: float = 0.0
    piece: int = 4
    limit: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    context: int = 2048
    token: str = ""
    busy: int = 0
    loading: bool = False
    breaks_after: int = 0
    turns: bool = True
    models: tuple[str, ...] = ("base", "demo", "poems")
    rows: list[list[str]] = field(default_factory=lambda: [list(row) for row in ROWS])
    requests: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a client closed its stream

    def __post_init__(self) -> None:
        self.gate.set()

    def info(self) -> dict[str, Any]:
        kinds = {"base": "base", "demo": "export"}
        shape = {"template": {"id": "alpaca", "hash": HASH}, "turns": self.turns, "system": self.turns, "input": True}
        return {
            "run": "demo",
            "version": "0.0",
            "export_command": "make export CONFIG=configs/demo.yaml",
            "default_model": "demo" if "demo" in self.models else "base",
            "limits": {"max_tokens": 1024, "body_bytes": 1_000_000, "queue": 64, "timeout": 300},
            "models": [
                {"id": name, "kind": kinds.get(name, "adapter"), **shape, "context": self.context, "note": "",
                 "ready": True} for name in self.models
            ],
        }  # fmt: skip

    def prompt(self, body: dict[str, Any]) -> dict[str, Any]:
        """A token a word and its space, numbered by first use."""
        text = f"### Instruction:\n{body['messages'][-1]['content']}\n\n### Response:\n"
        pieces = [word + " " for word in text.split(" ")]
        ids = {piece: 100 + i for i, piece in enumerate(dict.fromkeys(pieces))}
        tokens = [{"id": ids[piece], "text": piece} for piece in pieces]
        return {"text": text, "tokens": tokens, "count": len(tokens), "context": self.context}

    def pieces(self, body: dict[str, Any]) -> list[str]:
        """The rest of the answer, in pieces."""
        question = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
        korean = any("가" <= c <= "힣" for c in question)
        whole = self.korean if korean else self.answers[body["model"]]
        begun = body["messages"][-1]["content"] if body.get("continue_final_message") else ""
        rest = whole.removeprefix(begun)
        return [rest[i : i + self.piece] for i in range(0, len(rest), self.piece)]


def losses() -> list[dict[str, float]]:
    """A curve as of a short training."""
    rows: list[dict[str, float]] = []
    for step in range(1, 121):
        row = {"step": step, "loss": 0.12 + 2.2 * 0.955**step + 0.06 * ((step * 37) % 11 - 5) / 5}
        if step % 30 == 0:
            row["val_loss"] = 0.14 + 2.2 * 0.957**step
        rows.append(row)
    return rows


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: UiServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        script = self.server.script
        if self.path == "/":
            headers = {"Content-Security-Policy": content_security_policy(), "Content-Type": "text/html; charset=utf-8"}
            self.reply(200, page().encode(), headers)
        elif self.path == "/health":
            self.json(503 if script.loading else 200, {"status": "loading" if script.loading else "ok"})
        elif not self.allowed():
            self.error(401, "wrong or missing token")
        else:
            known = {
                "/suri/info": script.info,
                "/suri/run": lambda: {"metrics": losses(), "table": {"columns": COLUMNS, "rows": script.rows}},
                "/suri/questions": lambda: QUESTIONS,
            }
            self.json(200, known[self.path]()) if self.path in known else self.error(404, "not found")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script = self.server.script
        if not self.allowed():
            self.error(401, "wrong or missing token")
        elif self.path == "/suri/prompt":
            self.json(200, script.prompt(body))
        elif self.path != "/v1/chat/completions":
            self.error(404, "not found")
        elif script.busy > 0:
            script.busy -= 1
            self.error(503, "the queue is full", headers={"Retry-After": "1"})
        elif script.prompt(body)["count"] >= script.context:
            self.error(400, "the prompt is longer than the context", "context_length_exceeded")
        else:
            script.requests.append(body)
            self.stream(body) if body.get("stream") else self.whole(body)

    def allowed(self) -> bool:
        token = self.server.script.token
        return not token or self.headers.get("Authorization") == f"Bearer {token}"

    def whole(self, body: dict[str, Any]) -> None:
        text = "".join(self.server.script.pieces(body))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self.json(200, {"object": "chat.completion", "choices": [choice]})

    def stream(self, body: dict[str, Any]) -> None:
        script = self.server.script
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        pieces = script.pieces(body)
        if script.limit:
            pieces = pieces[: script.limit]
        reason = "length" if script.limit and len(pieces) == script.limit else "stop"
        try:
            for n, piece in enumerate(pieces):
                if script.breaks_after and n == script.breaks_after:
                    self.close_connection = True
                    return
                self.event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
                script.gate.wait(30)
                time.sleep(script.pace)
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
            self.event({"choices": [], "usage": {"completion_tokens": len(pieces), "prompt_tokens": 9}})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            script.left.set()
        self.close_connection = True

    def event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def error(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        self.json(status, {"error": {"message": message, "type": "error", "param": None, "code": code}}, headers)

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class UiServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, script: Script) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script = script
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def server_close(self) -> None:
        """As a process that ends does: also connections that browsers keep open for the next request are gone."""
        super().server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


@contextmanager
def serving(script: Script, port: int = 0) -> Iterator[UiServer]:
    """The server in a thread. port: 0 = a free one."""
    server = UiServer(port, script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        script.gate.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


if __name__ == "__main__":
    with serving(Script(pace=0.05), int(sys.argv[1]) if len(sys.argv) > 1 else 8000) as running:
        print(running.address, flush=True)
        threading.Event().wait()
