"""The journal: every reply, on the disk before it is used, so that nothing is lost and nothing is paid for twice.

JSONL, only ever appended to. `sent` is on the disk before a request goes out, once for each try, so that a try whose
reply never came is still counted as possibly paid for:

    {"sent": KEY, "tokens": most, "cost": most, "purpose": ...}
    {"reply": KEY, "text": ..., "finish": ..., "model": ..., "prompt_tokens": ..., ...}    ends one `sent`
    {"refused": KEY}                                                                       ends one, which is free
    {"batch": NAME, "keys": [...]}, {"batch": NAME, "id": ...}, {"batch": NAME, "end": ...}
    {"note": NAME, "value": ...}                                what a method keeps; the newest of a name counts

In memory stands a place in the file for each reply, not its text.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.run.append_file import AppendFile
from pipeline.run.errors import UserError
from pipeline.run.files import disk_errors, json_text
from pipeline.run.progress import say
from pipeline.synthesis.request import Reply, Request

FIELDS = {field.name for field in fields(Reply)}


class Journal:
    """The journal of a run.

    Attributes:
        tokens, cost: of all replies; cost is 0.0 where no price was known.
        unpriced: replies without a cost.
        open: tries that were sent and have no reply: the most tokens and cost of each, by key.
        open_tokens, open_cost: their sums.
        batches: files of requests that were handed over and are not read back, by name.
        notes: what methods noted, by name.

    Raises:
        UserError: the file is no journal, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens, self.cost, self.unpriced = 0, 0.0, 0
        self.open: dict[str, list[tuple[int, float]]] = {}
        self.open_tokens, self.open_cost = 0, 0.0
        self.batches: dict[str, Batch] = {}
        self.notes: dict[str, Any] = {}
        self._places: dict[str, int] = {}
        self._file = AppendFile(path)
        self._reader: BinaryIO | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[None], str]] = []
        self._writer: asyncio.Task[None] | None = None
        self._error: Exception | None = None
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
        if self._reader is None:
            self._reader = open(self.path, "rb")  # noqa: SIM115 (open as long as the journal)
        self._reader.seek(place)
        values = json.loads(self._reader.readline())
        return Reply(**{name: value for name, value in values.items() if name in FIELDS})

    def replies(self) -> Iterator[tuple[str, Reply]]:
        """All replies with their keys, in the order in which they came."""
        for key in self._places:
            reply = self.reply(key)
            assert reply is not None
            yield key, reply

    def is_pending(self, key: str) -> bool:
        """Whether the request is in a batch that was handed over."""
        return any(key in batch.keys for batch in self.batches.values())

    def lost(self) -> tuple[int, int] | None:
        """Tries without a reply that are in no batch, and the most tokens of them; None where there are none."""
        pending = frozenset[str]().union(*(batch.keys for batch in self.batches.values()))
        lost = [most for key, tries in self.open.items() if key not in pending for most in tries]
        return (len(lost), sum(tokens for tokens, _ in lost)) if lost else None

    def sending(self, request: Request, cost: float) -> Awaitable[None]:
        """Notes that a request goes out now; `cost`: the most that it can cost. It is on the disk when the result was
        awaited."""
        tokens = request.most_tokens()
        self._note_sent(request.key, tokens, cost)
        return self._append({"sent": request.key, "tokens": tokens, "cost": cost, "purpose": request.purpose})

    async def add(self, key: str, reply: Reply, purpose: str) -> None:
        """Keeps a reply; it is on the disk when this returns. A second reply to the same request is not kept."""
        if key in self._places:
            return
        await self._append({"reply": key, "purpose": purpose, **vars(reply)}, key)
        self._count(key, reply.prompt_tokens + reply.completion_tokens, reply.cost)

    def refused(self, key: str) -> None:
        """Notes that a try was answered with an error, so that it costs nothing."""
        if key in self.open:
            self._end_one(key)
            self._append({"refused": key})

    def hand_over(self, name: str, keys: list[str]) -> Awaitable[None]:
        """Notes that a batch of these requests will be handed over."""
        self.batches[name] = Batch(frozenset(keys))
        return self._append({"batch": name, "keys": keys})

    def handed_over(self, name: str, id: str) -> Awaitable[None]:
        """Notes the server's id of a batch."""
        self.batches[name].id = id
        return self._append({"batch": name, "id": id})

    def batch_ended(self, name: str, state: str) -> Awaitable[None]:
        """Notes that all replies of a batch were read."""
        del self.batches[name]
        return self._append({"batch": name, "end": state})

    def batches_of(self, role: str) -> dict[str, Batch]:
        """The batches of one role; their names begin with it."""
        return {name: batch for name, batch in self.batches.items() if name.startswith(f"{role}-")}

    def forget_batches(self, role: str) -> None:
        """For a model that is not asked by batches any more: their requests count as lost, and are asked again."""
        for name in self.batches_of(role):
            del self.batches[name]

    async def flush(self) -> None:
        """Waits until all is on the disk that was appended."""
        while self._writer is not None and not self._writer.done():
            await asyncio.wait([self._writer])

    def close(self) -> None:
        """Closes the file; it is opened again where needed."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _note_sent(self, key: str, tokens: int, cost: float) -> None:
        self.open.setdefault(key, []).append((tokens, cost))
        self.open_tokens += tokens
        self.open_cost += cost

    def _end_one(self, key: str) -> None:
        if tries := self.open.get(key):
            tokens, cost = tries.pop()
            self.open_tokens -= tokens
            self.open_cost -= cost
            if not tries:
                del self.open[key]
            if not self.open:
                self.open_cost = 0.0  # sums of floats leave a rest

    def note(self, name: str, value: Any) -> None:
        """Keeps a value; it is on the disk when this returns. Only before requests are sent."""
        line = f"{json_text({'note': name, 'value': value})}\n".encode()
        self._file.append(line)
        self._file.size += len(line)
        self.notes[name] = value

    def _count(self, key: str, tokens: int, cost: float | None) -> None:
        self._end_one(key)
        self.tokens += tokens
        self.cost += cost or 0.0
        self.unpriced += cost is None

    def _append(self, entry: dict[str, Any], key: str = "") -> asyncio.Future[None]:
        """Appends a line. Lines of one moment are written together, and wait for the disk once (group commit)."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._error is not None:
            done.set_exception(self._error)
        else:
            self._waiting.append((f"{json_text(entry)}\n".encode(), done, key))
            if self._writer is None or self._writer.done():
                self._writer = asyncio.create_task(self._write_waiting())
        done.add_done_callback(lambda done: done.cancelled() or done.exception())  # not everything is awaited
        return done

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._file.append, b"".join(line for line, _, _ in batch))
            except Exception as error:
                self._error = error
                batch, self._waiting = batch + self._waiting, []
            place = self._file.size
            for line, done, key in batch:
                if self._error is None:
                    if key:
                        self._places[key] = place
                    place += len(line)
                if not done.done():
                    done.set_exception(self._error) if self._error else done.set_result(None)
            self._file.size = place

    def _read(self) -> None:
        if not self.path.is_file():
            return
        damaged = good = 0
        with disk_errors(self.path.parent), open(self.path, "rb") as file:
            for line in file:
                self._file.end += len(line)
                if not line.endswith(b"\n"):
                    break  # cut by a crash; overwritten by the next line
                is_good = self._take(line)
                good, damaged = good + is_good, damaged + (not is_good)
                self._file.size += len(line)
        if damaged and not good:
            raise UserError(
                "this file is no journal of replies", str(self.path), "move it away, or choose another name"
            )
        if damaged:
            say(f"generate: {damaged} damaged lines of the journal are left out: {self.path}")

    def _take(self, line: bytes) -> bool:
        """Whether a line is one of a journal; counts it."""
        try:
            entry = json.loads(line)
            if "reply" in entry:
                self._take_reply(entry)
            elif "sent" in entry:
                self._note_sent(entry["sent"], _amount(int(entry["tokens"])), _amount(float(entry["cost"])))
            elif "batch" in entry:
                self._take_batch(entry)
            elif "note" in entry:
                self.notes[entry["note"]] = entry["value"]
            else:
                self._end_one(entry["refused"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        return True

    def _take_reply(self, entry: dict[str, Any]) -> None:
        key, cost = entry["reply"], entry["cost"]
        if not isinstance(key, str) or not isinstance(entry["text"], str):
            raise TypeError
        tokens = _amount(int(entry["prompt_tokens"])) + _amount(int(entry["completion_tokens"]))
        if key not in self._places:  # a second one is not counted, and its `sent` stays open
            self._count(key, tokens, None if cost is None else _amount(float(cost)))
            self._places[key] = self._file.size

    def _take_batch(self, entry: dict[str, Any]) -> None:
        name = entry["batch"]
        if "keys" in entry:
            self.batches[name] = Batch(frozenset(entry["keys"]))
        elif "id" in entry:
            self.batches[name].id = str(entry["id"])
        else:
            self.batches.pop(name, None)


class Batch:
    """A file of requests that was handed over. id: the server's; empty until it is known."""

    def __init__(self, keys: frozenset[str]) -> None:
        self.keys, self.id = keys, ""


def _amount(value: Any) -> Any:
    if not 0 <= value < math.inf:
        raise ValueError
    return value
