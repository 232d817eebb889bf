"""Measures requests to a teacher and the journal: `python -m scripts.benchmarks.bench_synthesis [CASE ...]`.

A stub in a separate process answers each request after 50 ms, so that 64 at once can be at most 1,280 a second.

Cases: layers (2,000 requests through the openai client alone, with this project's transport, through the whole way of
a request: asker, budget, journal with fsync; and through the loop of `generate`), parallel (the whole way with 1 to
1,024 requests at once), journal (100,000 replies written and read back). Without a case: all of them, about two minutes
on two cores. Times of the processor are of this process; the stub needs the other core.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pipeline.command import guarded
from pipeline.config.synthesis import Synthesis
from pipeline.run.errors import UserError
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.generation import Generation
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Draft, Reply, Request, Work
from pipeline.synthesis.spend import Budget
from pipeline.synthesis.teachers import teachers_of

DELAY = 0.05  # seconds until the stub answers
REQUESTS, AT_ONCE = 2000, 64
REPLIES = 100_000
PROMPT, ANSWER = "write something new " * 40, "some words of an answer " * 40
Line = tuple[str, str]


def layers() -> Iterator[Line]:
    """What each layer costs."""
    with _stub() as url:
        for name, measure in (
            ("openai client", _client), ("with our transport", _transport), ("whole way", _whole),
            ("loop of generate", _generation),
        ):  # fmt: skip
            yield f"{name}: {REQUESTS:,} requests, {AT_ONCE} at once", measure(url, AT_ONCE, REQUESTS)


def parallel() -> Iterator[Line]:
    """The whole way with other numbers at once."""
    with _stub() as url:
        for at_once in (1, 8, 64, 256, 1024):
            count = min(REQUESTS * 2, at_once * 100)
            yield f"whole way: {count:,} requests, {at_once:,} at once", _whole(url, at_once, count)


def journal() -> Iterator[Line]:
    """100,000 replies, `AT_ONCE` at a time, and the same read back by another process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        before, begin = _memory(), time.perf_counter()
        journal = asyncio.run(_filled(path))
        seconds, size = time.perf_counter() - begin, path.stat().st_size / 1e6
        value = f"{seconds:.1f} s, file {size:.0f} MB, memory +{_memory() - before:.0f} MB"
        yield f"journal: {len(journal):,} replies written, {AT_ONCE} at once", value
        out = subprocess.run([*_self(), "--read", str(path)], capture_output=True, text=True, check=True).stdout
        yield f"journal: {REPLIES:,} replies read back", out.strip()


def _client(url: str, at_once: int, count: int) -> str:
    import openai

    async def main() -> str:
        client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0)

        async def ask(number: int) -> None:
            messages: Any = [{"role": "user", "content": f"{PROMPT}{number}"}]
            reply = await client.chat.completions.create(model="m", messages=messages, max_tokens=500)
            assert reply.choices[0].message.content == ANSWER

        rate = await _rate(ask, at_once, count)
        await client.close()
        return rate

    return asyncio.run(main())


def _transport(url: str, at_once: int, count: int) -> str:
    import openai

    from pipeline.api.transport import http_client

    async def main() -> str:
        client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0, http_client=http_client({}, 60))

        async def ask(number: int) -> None:
            messages = [{"role": "user", "content": f"{PROMPT}{number}"}]
            body = {"model": "m", "messages": messages, "max_tokens": 500}
            data: Any = await client.post("/chat/completions", cast_to=bytes, body=body)
            assert json.loads(data)["choices"][0]["message"]["content"] == ANSWER

        rate = await _rate(ask, at_once, count)
        await client.close()
        return rate

    return asyncio.run(main())


def _settings(url: str, at_once: int) -> Synthesis:
    teacher = {"model": "m", "base_url": url, "parallel": at_once, "max_tokens": 500, "terms": "none",
               "price": {"input": 1, "output": 2}}  # fmt: skip
    return Synthesis.model_validate({"method": "self-instruct", "budget": "1000 USD", "teacher": teacher})


class _OneRequest:
    """A method with a request a row."""

    rows_per_item = 1

    def __init__(self, items: int) -> None:
        self.items: int | None = items

    def draft(self, number: int) -> Work:
        reply = yield _request(number)
        return [Draft(str(number), "", reply.text)]

    def finish(self, draft: Draft) -> Work:
        return [draft]
        yield


class _NoFilters:
    def draft(self, draft: Draft) -> Draft:
        return draft

    row = draft


def _generation(url: str, at_once: int, count: int) -> str:
    async def main() -> str:
        async with _asker(_settings(url, at_once)) as asker:
            begin, processor = time.perf_counter(), time.process_time()
            result = await Generation(_OneRequest(count), _NoFilters(), asker, count, at_once).run()
            seconds, processor = time.perf_counter() - begin, time.process_time() - processor
        assert len(result.rows) == count
        return _told(count, seconds, processor)

    return asyncio.run(main())


def _whole(url: str, at_once: int, count: int) -> str:
    async def main() -> str:
        async with _asker(_settings(url, at_once)) as asker:

            async def ask(number: int) -> None:
                assert (await asker.ask(_request(number))).text == ANSWER

            return await _rate(ask, 4 * at_once, count)  # as many items as `generation.py` begins at a time

    return asyncio.run(main())


@contextlib.asynccontextmanager
async def _asker(settings: Synthesis) -> AsyncIterator[Asker]:
    """With an empty journal."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        budget = Budget(settings, journal)
        teachers = teachers_of(settings, budget)
        yield Asker(journal, budget, teachers)
        await teachers["teacher"].close()


async def _rate(ask: Callable[[int], Awaitable[None]], at_once: int, count: int) -> str:
    """Requests a second, beginning after connections are open."""
    await asyncio.gather(*(ask(-number - 1) for number in range(min(at_once, count))))
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await ask(number)

    begin, processor = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    return _told(count, seconds, processor)


def _told(count: int, seconds: float, processor: float) -> str:
    return f"{count / seconds:,.0f} a second, {processor / count * 1000:.2f} ms of the processor each"


def _request(number: int) -> Request:
    return Request((("user", f"{PROMPT}{number}"),), 500, 0.7, "m", "tasks")


async def _filled(path: Path) -> Journal:
    journal, numbers = Journal(path), iter(range(REPLIES))

    async def worker() -> None:
        for number in numbers:
            request = _request(number)
            await journal.sending(request, 0.001)
            await journal.add(request.key, Reply(ANSWER, "stop", "", "m", 200, 200, 0.001), "tasks")

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return journal


def _read(path: Path) -> None:
    before, begin = _memory(), time.perf_counter()
    journal = Journal(path)
    opened, memory = time.perf_counter() - begin, _memory() - before
    count = sum(reply.text == ANSWER for _, reply in journal.replies())
    seconds = time.perf_counter() - begin
    print(f"{opened:.1f} s, with all {count:,} texts {seconds:.1f} s, memory +{memory:.0f} MB")


def _memory() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


@contextlib.contextmanager
def _stub() -> Iterator[str]:
    with subprocess.Popen([*_self(), "--stub"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _self() -> list[str]:
    return [sys.executable, "-m", "scripts.benchmarks.bench_synthesis"]


class _Stub(asyncio.Protocol):
    """Answers each request on a connection after `DELAY`; does as little as it can."""

    body = json.dumps({
        "model": "m", "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 200},
    }).encode()  # fmt: skip
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    def connection_made(self, transport: Any) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, _ = self.data.partition(b"\r\n\r\n")
        if end:
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self.data) >= len(head) + len(end) + size:
                self.data = b""
                asyncio.get_running_loop().call_later(DELAY, self.transport.write, self.answer)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Stub, "127.0.0.1", 0, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


CASES: dict[str, Callable[[], Iterator[Line]]] = {"layers": layers, "parallel": parallel, "journal": journal}


def main() -> None:
    """Prints a line for each measurement."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--stub"]:
        asyncio.run(_serve())
        return
    if arguments[:1] == ["--read"]:
        _read(Path(arguments[1]))
        return
    if unknown := set(arguments) - set(CASES):
        raise UserError(f"no case {', '.join(sorted(unknown))}", "", f"one of {', '.join(CASES)}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in arguments or list(CASES):
        for what, value in CASES[name]():
            print(f"{what}: {value}", flush=True)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
