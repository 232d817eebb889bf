"""A teacher behind OpenAI's batch files, which take up to a day and cost half
(https://platform.openai.com/docs/guides/batch).

    requests that wait --(no new one for a moment)--> journal: sent, batch --> upload, create --> journal: id
    replies <-- journal <-- output and error files <-- asked after, with growing pauses

A batch is in the journal before it is created, so that a command that was killed waits for the same one and pays once;
where it was killed before the server's id came, the batch is looked for by the name in its metadata.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.api.body import Unbounded
from pipeline.api.failure import AGAIN, failure_of, user_error
from pipeline.api.key import clean, key_of
from pipeline.config.synthesis import Asked
from pipeline.run.errors import UserError
from pipeline.run.progress import bar, say
from pipeline.synthesis.api_teacher import client_of, who_of
from pipeline.synthesis.asker import GaveUp
from pipeline.synthesis.chat import ChatForm, NotTheApi, most_of, refusal_of, reply_of
from pipeline.synthesis.request import Reply, Request, Role
from pipeline.synthesis.spend import Budget, cost_of

MOMENT = 1.0  # seconds without a new request after which a batch is closed
MOST_REQUESTS = 50_000  # of a batch, as OpenAI has it
MOST_BYTES = 190 << 20  # of its file; 200 MB are allowed
MOST_READ = 1 << 30  # bytes of a file of replies
TRANSFER = 600  # seconds that a file may take
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 120.0  # seconds between two questions after a batch
ENDPOINT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


class BatchTeacher:
    """Collects requests into batches.

    Args:
        budget: of the run, which also knows its journal. role: for messages.

    Raises:
        UserError: the variable with the key is not set.
    """

    def __init__(self, asked: Asked, budget: Budget, role: Role = "teacher") -> None:
        import openai

        self.asked, self.budget, self.role, self.openai = asked, budget, role, openai
        self.journal, self.form, self.who = budget.journal, ChatForm(asked), who_of(asked, role)
        self.key = key_of(asked, self.who.section)
        self.client = client_of(self.who, self.key, TRANSFER, MOST_READ)
        self._requests: dict[str, Request] = {}  # that are awaited
        self._futures: dict[str, asyncio.Future[Reply]] = {}
        self._waiting: list[Request] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._collector: asyncio.Task[None] | None = None
        self._are_followed = False

    async def reply(self, request: Request) -> Reply:
        """The model's reply, hours later.

        Raises:
            GaveUp, NotJournaled: none now. UserError: the batch failed.
        """
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._requests[request.key], self._futures[request.key] = request, future
        self._follow_earlier()
        if self.journal.is_pending(request.key):
            self.budget.hand_over([request.key])
        else:
            self._enqueue(request)
        try:
            return await future
        finally:
            self._requests.pop(request.key, None)
            self._futures.pop(request.key, None)

    async def close(self) -> None:
        """Ends waiting; batches go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()
        for batch in self.journal.batches_of(self.role).values():
            say(f"generate: batch {batch.id or '(being created)'} goes on; the same command waits for it and reads it")

    def _enqueue(self, request: Request) -> None:
        self._waiting.append(request)
        if self._collector is None or self._collector.done():
            self._collector = self._begin(self._collect, lambda: [r.key for r in self._waiting])

    async def _enqueue_again(self, request: Request) -> None:
        """For requests of a batch that never was."""
        self.budget.handed_over.discard(request.key)
        await self.budget.reserve(request)
        self._enqueue(request)

    def _begin(self, work: Callable[[], Awaitable[None]], keys: Callable[[], list[str]]) -> asyncio.Task[None]:
        """Starts work; where it fails, so do the requests with these keys."""

        async def guarded() -> None:
            try:
                await work()
            except Exception as error:
                for key in keys():
                    self._end(key, error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _end(self, key: str, outcome: Reply | Exception) -> None:
        future = self._futures.get(key)
        if future is not None and not future.done():
            future.set_exception(outcome) if isinstance(outcome, Exception) else future.set_result(outcome)

    def _follow_earlier(self) -> None:
        """Waits for the batches of earlier commands, once."""
        if not self._are_followed:
            self._are_followed = True
            for name, batch in self.journal.batches_of(self.role).items():
                self._begin(partial(self._follow, name), partial(list, batch.keys))

    async def _collect(self) -> None:
        """Hands over what waits, as soon as no new request has come for a moment."""
        count = -1
        while count != len(self._waiting):
            count = len(self._waiting)
            await asyncio.sleep(MOMENT)
        while self._waiting:
            lines, size = list[bytes](), 0
            for request in self._waiting[:MOST_REQUESTS]:
                line = self._line(request)
                if lines and size + len(line) > MOST_BYTES:
                    break
                lines.append(line)
                size += len(line)
            requests = self._waiting[: len(lines)]
            await self._hand_over(requests, b"".join(lines))

    def _line(self, request: Request) -> bytes:
        entry = {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": self.form.body(request)}
        return json.dumps(entry).encode() + b"\n"

    async def _hand_over(self, requests: list[Request], data: bytes) -> None:
        name, keys = f"{self.role}-{uuid.uuid4().hex}", [request.key for request in requests]
        await asyncio.gather(*(self.budget.sent(request) for request in requests))
        await self.journal.hand_over(name, keys)
        self.budget.hand_over(keys)
        del self._waiting[: len(requests)]

        async def work() -> None:
            try:
                file = await self._patiently(
                    lambda: self.client.files.create(file=(f"{name}.jsonl", data), purpose="batch")
                )
            except UserError:
                self._refuse(name, "not created")
                raise
            await self._create(name, file.id)
            await self._follow(name)

        self._begin(work, lambda: keys)

    async def _create(self, name: str, file: str) -> None:
        async def create() -> Any:
            return await self._created(name) or await self.client.batches.create(
                input_file_id=file, endpoint=ENDPOINT, completion_window="24h", metadata={"journal": name}
            )

        batch = await self._patiently(create)  # after an error it may exist; the next command looks for it
        await self.journal.handed_over(name, batch.id)
        count = len(self.journal.batches[name].keys)
        say(f"generate: batch {batch.id} has {count:,} requests; it takes up to a day, and Ctrl-C does not end it")

    async def _created(self, name: str) -> Any:
        """The server's batch of this name; None where it has none among the newest."""
        page = await self.client.batches.list(limit=100)
        return next((batch for batch in page.data if (batch.metadata or {}).get("journal") == name), None)

    async def _follow(self, name: str) -> None:
        """Waits for a batch and journals its replies."""
        known = self.journal.batches[name]
        if not known.id:
            found = await self._patiently(lambda: self._created(name))
            if found is None:  # the command was killed before it was created
                for key in self._refuse(name, "not created"):
                    if request := self._requests.get(key):
                        self._begin(partial(self._enqueue_again, request), partial(list, [key]))
                return
            await self.journal.handed_over(name, found.id)
        batch = await self._ended(known.id, len(known.keys))
        answered = 0
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                content = await self._patiently(partial(self.client.files.content, file))
                for line in content.content.splitlines():
                    answered += await self._take(line)
        keys = self._refuse(name, batch.status)
        if answered < len(keys):
            self._tell_missing(batch, keys, answered)

    async def _ended(self, id: str, total: int) -> Any:
        pause = FIRST_PAUSE
        with bar(total=total, what=f"batch {id[:20]}", unit="reply") as progress:
            while True:
                batch = await self._patiently(lambda: self.client.batches.retrieve(id))
                if batch.status in ENDED:
                    return batch
                counts = batch.request_counts
                progress.update((counts.completed + counts.failed if counts else 0) - progress.n)
                await asyncio.sleep(pause)
                pause = min(pause * 1.3, LONGEST_PAUSE)

    async def _take(self, line: bytes) -> bool:
        """Journals the reply in a line; False where it holds none."""
        try:
            entry = json.loads(line)
            key, response = entry["custom_id"], entry.get("response") or {}
            code, body = response.get("status_code", 0), response.get("body") or {}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        if key not in self.journal.open or not isinstance(key, str):
            return key in self.journal
        request = self._requests.get(key)
        try:
            most = most_of(request) if request else (self.journal.open[key][-1][0], 0)
            error = body or entry.get("error")
            reply = reply_of(body, most, self.key) if code == 200 else refusal_of(code, error, self.key)
        except NotTheApi:
            return False
        if reply is None:
            return False
        price = self.budget.prices[self.role]
        cost = self.budget.cost(request, reply) if request else cost_of(
            price, reply.prompt_tokens, reply.completion_tokens
        )  # fmt: skip
        await self.journal.add(key, replace(reply, cost=cost), request.purpose if request else "batch")
        self._end(key, reply)
        return True

    def _refuse(self, name: str, state: str) -> frozenset[str]:
        """Ends a batch in the journal; requests without a reply cost nothing. Returns its keys."""
        keys = self.journal.batches[name].keys
        self.journal.batch_ended(name, state)
        for key in keys:
            if key not in self.journal:
                self.journal.refused(key)
        return keys

    def _tell_missing(self, batch: Any, keys: frozenset[str], answered: int) -> None:
        """Ends the requests that a batch did not answer; the next command asks them again.

        Raises:
            UserError: it answered none, failed, or was cancelled.
        """
        reasons = [str(each.message) for each in (batch.errors.data or [])] if batch.errors else []
        detail = clean("; ".join(reasons[:3]), self.key)
        if batch.status == "failed":
            what = f"the batch of {self.who.name} failed{': ' if detail else ''}{detail}"
            raise UserError(what, batch.id, "correct what it says, then run the same command again")
        if batch.status == "cancelled":
            raise UserError(f"the batch of {self.who.name} was cancelled", batch.id, "run the same command again")
        state = "expired" if batch.status == "expired" else "ended"
        if not answered:
            raise UserError(f"the batch of {self.who.name} {state} without any reply", batch.id,
                            "look at its errors at the provider, then run the same command again")  # fmt: skip
        for key in keys:
            if key not in self.journal:
                self._end(key, GaveUp(f"a batch {state} without a reply to this request"))

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Asks the server, again after a pause where that may help.

        Raises:
            UserError: no answer after all tries.
        """
        number = 0
        while True:
            try:
                return await ask()
            except (self.openai.OpenAIError, Unbounded, TimeoutError, ValueError, RecursionError) as error:
                failure = failure_of(error, self.key)
            if failure.kind not in AGAIN or number == self.asked.retries:
                raise user_error(failure, self.who)
            pause = FIRST_PAUSE / 5 * 2 ** min(number, 20) * (0.5 + random.random() / 2)
            await asyncio.sleep(min(pause if failure.wait is None else failure.wait, LONGEST_PAUSE))
            number += 1
