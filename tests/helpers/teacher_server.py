"""A server on this machine that speaks the chat API and its batch files, with faults, for tests of teachers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PROMPT_TOKENS, COMPLETION_TOKENS = 40, 20


def completion(text: Any, **more: Any) -> dict[str, Any]:
    """A chat completion; `more` replaces its fields."""
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "stub-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}, **more,
    }  # fmt: skip


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@dataclass
class Answer:
    """What is sent for one request.

    Attributes:
        cut: bytes of the body after which the connection ends. reset: ends it at once, without a reply.
        twice: the same reply comes two times. drips: after the body one byte at a time comes, for ever.
        silent: nothing comes.
    """

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    reset: bool = False
    twice: bool = False
    drips: bool = False
    silent: bool = False

    @property
    def is_paid(self) -> bool:
        """Whether a provider would take money: the reply was made, though it may not arrive."""
        return self.status == 200


Says = Callable[[int, dict[str, Any]], Any]


@dataclass
class Server:
    """says: an `Answer`, or a text, for the number of the call (from 1) and the request's body.

    Attributes:
        calls: bodies with their headers. paid: bodies that a reply was made for. most_at_once: requests at a time.
        batches, files: of the batch API, by id. batch_polls: how often a batch is in progress before it ends.
        batch_state: in which it ends.
    """

    url: str
    says: Says
    calls: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)
    paid: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_polls: int = 1
    batch_state: str = "completed"
    polls: int = 0

    @property
    def paid_tokens(self) -> int:
        return len(self.paid) * (PROMPT_TOKENS + COMPLETION_TOKENS)

    def pay(self, body: dict[str, Any]) -> None:
        """Counts a reply."""
        self.paid.append(body)


def prompt(body: Mapping[str, Any]) -> str:
    """The last message of a request."""
    text: str = body["messages"][-1]["content"]
    return text


@contextlib.contextmanager
def serving(says: Says) -> Iterator[Server]:
    """Runs in a thread until the block ends."""
    ready: dict[str, Any] = {}
    started = threading.Event()

    def work() -> None:
        async def main() -> None:
            server = Server("", says)
            ready.update(server=server, loop=asyncio.get_running_loop(), end=asyncio.Event())
            listener = await listen(server, 0)
            started.set()
            await ready["end"].wait()
            listener.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started.wait()
    try:
        yield ready["server"]
    finally:
        ready["loop"].call_soon_threadsafe(ready["end"].set)
        thread.join()


async def listen(server: Server, port: int) -> asyncio.Server:
    """Serves on 127.0.0.1; port 0: a free one."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await _serve_one(server, reader, writer):
                pass
        writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", port, limit=1 << 26, backlog=1024)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    return listener


async def _serve_one(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        data = b""
        while size := int(await reader.readline(), 16):
            data += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        data = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split()
    path = path.partition("?")[0]
    if path != "/v1/chat/completions":
        return await _send(writer, _of_batches(server, method, path, data, headers))
    body = json.loads(data)
    server.calls.append((body, headers))
    server.at_once += 1
    server.most_at_once = max(server.most_at_once, server.at_once)
    try:
        answer = server.says(len(server.calls), body)
        if not isinstance(answer, Answer):
            answer = Answer(completion(answer))
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.is_paid:
            server.pay(body)
        return await _send(writer, answer)
    finally:
        server.at_once -= 1


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Whether the connection goes on."""
    if answer.reset:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False
    if answer.silent:
        await asyncio.sleep(3600)
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    length = len(body) + (1000 if answer.drips else 0)
    head = {"content-type": "application/json", "content-length": str(length), **answer.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    first = f"HTTP/1.1 {answer.status} X\r\n{lines}\r\n".encode()
    writer.write(first + body + first if answer.twice else first)
    if answer.cut is not None:
        writer.write(body[: answer.cut])
        await writer.drain()
        return False
    writer.write(body)
    await writer.drain()
    while answer.drips:
        await asyncio.sleep(0.02)
        writer.write(b" ")
        await writer.drain()
    return True


def _of_batches(server: Server, method: str, path: str, data: bytes, headers: Mapping[str, str]) -> Answer:
    """Files and batches, as https://platform.openai.com/docs/api-reference/batch has them."""
    if path == "/v1/files" and method == "POST":
        content = _uploaded(data, headers["content-type"])
        id = f"file-{len(server.files) + 1}"
        server.files[id] = content
        return Answer({"id": id, "object": "file", "bytes": len(content), "created_at": 0, "filename": "b.jsonl",
                       "purpose": "batch", "status": "processed"})  # fmt: skip
    if match := re.fullmatch(r"/v1/files/([\w-]+)/content", path):
        return Answer(server.files[match[1]])
    if path == "/v1/batches" and method == "POST":
        asked = json.loads(data)
        id = f"batch-{len(server.batches) + 1}"
        server.batches[id] = {
            "id": id, "object": "batch", "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"],
            "completion_window": "24h", "status": "in_progress", "created_at": 0, "metadata": asked.get("metadata"),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        server.polls = 0
        return Answer(server.batches[id])
    if path == "/v1/batches":
        return Answer({"object": "list", "data": list(server.batches.values()), "has_more": False})
    if match := re.fullmatch(r"/v1/batches/([\w-]+)(/cancel)?", path):
        batch = server.batches[match[1]]
        server.polls += 1
        if server.polls > server.batch_polls and batch["status"] == "in_progress":
            _end(server, batch)
        return Answer(batch)
    return Answer(error("no such path"), status=404)


def _uploaded(data: bytes, content_type: str) -> bytes:
    boundary = re.search(r"boundary=([^;]+)", content_type)
    assert boundary
    for part in data.split(b"--" + boundary[1].strip('"').encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return content.removesuffix(b"\r\n")
    raise AssertionError("no file in the upload")


def _end(server: Server, batch: dict[str, Any]) -> None:
    """Answers the lines of a batch, in reverse order; refused ones go into the error file."""
    output, errors = [], []
    for line in map(json.loads, server.files[batch["input_file_id"]].splitlines()):
        server.calls.append((line["body"], {}))
        answer = server.says(len(server.calls), line["body"])
        answer = answer if isinstance(answer, Answer) else Answer(completion(answer))
        if answer.is_paid:
            server.pay(line["body"])
        entry = {"id": "x", "custom_id": line["custom_id"], "error": None,
                 "response": {"status_code": answer.status, "request_id": "r", "body": answer.body}}  # fmt: skip
        (output if answer.status == 200 else errors).append(json.dumps(entry))
    batch["status"] = server.batch_state
    for name, lines in (("output_file_id", output), ("error_file_id", errors)):
        if lines:
            batch[name] = f"file-{len(server.files) + 1}"
            server.files[batch[name]] = "\n".join(reversed(lines)).encode() + b"\n"
