"""The journal: every reply, on the disk before it is used, so that nothing is lost and nothing is paid for twice.

JSONL, only ever appended to. `sent` stands before a request goes out, so that a reply that a crash swallowed is still
counted as possibly paid for:

    {"sent": KEY, "tokens": most, "cost": most, "purpose": ..., "time": ...}
    {"reply": KEY, "text": ..., "finish": ..., "model": ..., "prompt_tokens": ..., ...}
    {"note": NAME, "value": ...}    what a method keeps; the newest of a name counts

In memory stands a place in the file for each reply, not its text.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import disk_errors, json_text, make_folder
from pipeline.run.progress import say
from pipeline.synthesis.request import Reply, Request

FIELDS = {field.name for field in fields(Reply)}


class Journal:
    """The journal of a run.

    Attributes:
        tokens, cost: of all replies; cost is 0.0 where no price was known.
        unpriced: replies without a cost.
        notes: what methods noted, by name.
        open: requests that were sent and have no reply: the most tokens and cost of each, by key.

    Raises:
        UserError: the file is no journal, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens, self.cost, self.unpriced = 0, 0.0, 0
        self.open: dict[str, tuple[int, float]] = {}
        self.notes: dict[str, Any] = {}
        self._places: dict[str, int] = {}
        self._size = 0
        self._waiting: list[tuple[str, asyncio.Future[None] | None, str]] = []
        self._writer: asyncio.Task[None] | None = None
        self._read()

    def __len__(self) -> int:
        """Number of replies."""
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def reply(self, key: str) -> Reply | None:
        """The reply to the request with this key, None where there is none yet."""
        place = self._places.get(key)
        if place is None:
            return None
        with open(self.path, "rb") as file:
            file.seek(place)
            values = json.loads(file.readline())
        return Reply(**{name: value for name, value in values.items() if name in FIELDS})

    def replies(self) -> Iterator[tuple[str, Reply]]:
        """All replies with their keys, in the order in which they came."""
        for key in self._places:
            reply = self.reply(key)
            assert reply is not None
            yield key, reply

    async def sending(self, request: Request, cost: float) -> None:
        """Notes that a request goes out now; `cost`: the most that it can cost."""
        self.open[request.key] = (request.most_tokens(), cost)
        entry = {"sent": request.key, "tokens": request.most_tokens(), "cost": cost, "purpose": request.purpose}
        await self._append(entry, "", sync=False)

    async def add(self, key: str, reply: Reply, purpose: str) -> None:
        """Keeps a reply; it is on the disk when this returns."""
        await self._append({"reply": key, "purpose": purpose, **asdict(reply)}, key, sync=True)
        self._count(key, reply.prompt_tokens + reply.completion_tokens, reply.cost)

    async def refused(self, key: str) -> None:
        """Notes that a request was answered with an error, so that it costs nothing."""
        if self.open.pop(key, None):
            await self._append({"refused": key}, "", sync=False)

    def note(self, name: str, value: Any) -> None:
        """Keeps a value; it is on the disk when this returns. Only before requests are sent."""
        line = f"{json_text({'note': name, 'value': value})}\n".encode()
        self._to_disk(line, sync=True)
        self._size += len(line)
        self.notes[name] = value

    def _count(self, key: str, tokens: int, cost: float | None) -> None:
        self.open.pop(key, None)
        self.tokens += tokens
        self.cost += cost or 0.0
        self.unpriced += cost is None

    async def _append(self, entry: dict[str, Any], key: str, sync: bool) -> None:
        """Appends a line. Lines of one moment are written together, and wait for the disk once (group commit)."""
        done = asyncio.get_running_loop().create_future() if sync else None
        self._waiting.append((json_text(entry), done, key))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        if done is not None:
            await done

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            lines = [f"{text}\n".encode("utf-8", "surrogatepass") for text, _, _ in batch]
            sync = any(done is not None for _, done, _ in batch)
            try:
                await asyncio.to_thread(self._to_disk, b"".join(lines), sync)
            except Exception as error:
                for _, done, _ in batch:
                    if done is not None and not done.done():
                        done.set_exception(error)
                raise
            for line, (_, done, key) in zip(lines, batch, strict=True):
                if key:
                    self._places[key] = self._size
                self._size += len(line)
                if done is not None and not done.done():
                    done.set_result(None)

    def _to_disk(self, data: bytes, sync: bool) -> None:
        make_folder(self.path.parent)
        with disk_errors(self.path.parent), open(self.path, "ab", buffering=0) as file:
            file.write(data)
            if sync:
                os.fsync(file.fileno())

    def _read(self) -> None:
        if not self.path.is_file():
            return
        damaged = 0
        with disk_errors(self.path.parent), open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    damaged += 1
                    break
                damaged += not self._take(line)
                self._size += len(line)
        if self._size != self.path.stat().st_size:  # a crash cut the last line; the next one must not be joined to it
            with disk_errors(self.path.parent):
                os.truncate(self.path, self._size)
        if damaged and not self._places:
            raise UserError(
                "this file is no journal of replies", str(self.path), "move it away, or choose another name"
            )
        if damaged:
            say(f"generate: {damaged} damaged lines of the journal are left out: {self.path}")

    def _take(self, line: bytes) -> bool:
        try:
            entry = json.loads(line)
            if "reply" in entry:
                self._places[entry["reply"]] = self._size
                self._count(entry["reply"], entry["prompt_tokens"] + entry["completion_tokens"], entry["cost"])
            elif "sent" in entry:
                self.open[entry["sent"]] = (int(entry["tokens"]), float(entry["cost"]))
            elif "note" in entry:
                self.notes[entry["note"]] = entry["value"]
            else:
                self.open.pop(entry["refused"], None)
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
        return True
