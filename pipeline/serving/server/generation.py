"""The answers of one HTTP request, from the engine's thread to the event loop.

    engine thread   listener(event) ──call_soon_threadsafe──> queue of the request
    event loop      the client left, the time is over     ──> the same queue
                    pieces(): takes from the queue until every answer has ended

However it ends, no answer keeps its slot in the engine: `close` cancels what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from pipeline.serving.engine.request import Engine, Event, Finished, Full, GenerationRequest, NewToken, Ticket
from pipeline.serving.engine.served_model import ServedModel
from pipeline.serving.server.answer import Answer, Piece
from pipeline.serving.server.api_error import ApiError, timed_out, unavailable
from pipeline.serving.server.messages import Prompt
from pipeline.serving.server.metrics import Metrics
from pipeline.serving.server.parameters import LARGEST_SEED, Parameters

Interruption = Literal["left", "timeout"]


class ClientLeft(Exception):
    """The client closed the connection."""


class Generation:
    """All answers of one request: `choices` of each prompt, in this order.

    Attributes:
        answers: by index. prompt_tokens: of all prompts, each counted once.
    """

    def __init__(self, model: ServedModel, prompts: Sequence[Prompt], parameters: Parameters, metrics: Metrics) -> None:
        self.model, self.prompts, self.parameters, self.metrics = model, prompts, parameters, metrics
        self.prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
        encoder = model.encoder
        self.answers = [
            Answer(encoder.tokenizer, encoder.template.answer_prefix, prompt.begun, parameters.stop, model.end_ids,
                   parameters.top_logprobs is not None)
            for prompt in prompts for _ in range(parameters.choices)
        ]  # fmt: skip
        self._tickets: list[Ticket] = []
        self._queue: asyncio.Queue[tuple[int, Event] | Interruption] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._started = time.monotonic()

    def start(self, engine: Engine, most_tokens: int, seconds: int, receive: Any) -> None:
        """Submits every answer to the engine, or none.

        Args:
            most_tokens: longest answer. seconds: after which the answers are ended.
            receive: of ASGI, tells that the client left.

        Raises:
            ApiError: the queue is full.
        """
        loop = asyncio.get_running_loop()
        try:
            for index in range(len(self.answers)):
                self._tickets.append(engine.submit(self._request(index, most_tokens), self._listener(loop, index)))
        except Full:
            self.close()
            self.metrics.refused()
            raise unavailable("the queue is full; try again later", "queue_full") from None
        self._timer = loop.call_later(seconds, self._interrupt, "timeout")
        self._tasks.append(loop.create_task(self._watch(receive)))

    def _request(self, index: int, most_tokens: int) -> GenerationRequest:
        parameters = self.parameters
        prompt, choice = self.prompts[index // parameters.choices], index % parameters.choices
        sampling = parameters.sampling
        if sampling.seed is not None:  # so that the choices differ, each the same again
            sampling = replace(sampling, seed=min(sampling.seed, LARGEST_SEED - choice) + choice)
        longest = min(parameters.max_tokens or most_tokens, self.model.context - len(prompt.ids))
        return GenerationRequest(
            self.model.name, prompt.ids, longest, self.model.end_ids, sampling, parameters.top_logprobs
        )

    def _listener(self, loop: asyncio.AbstractEventLoop, index: int) -> Any:
        def listen(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
                loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        return listen

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._interrupt("left")

    def _interrupt(self, why: Interruption) -> None:
        self._cancel()
        self._queue.put_nowait(why)

    async def pieces(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """What has come since the last time, as pieces with the index of their answer, until every answer has ended.

        Raises:
            ApiError: the engine failed or ends, or the time is over before an answer began. ClientLeft.
        """
        open_answers = len(self.answers)
        while open_answers:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            pieces = []
            for item in batch:
                ended = self._timed_out() if isinstance(item, str) and item == "timeout" else self._piece(item)
                pieces += ended
            open_answers -= sum(piece.finish is not None for _, piece in pieces)
            if pieces:
                yield pieces

    def _piece(self, item: tuple[int, Event] | Interruption) -> list[tuple[int, Piece]]:
        if isinstance(item, str):
            raise ClientLeft
        index, event = item
        answer = self.answers[index]
        if answer.finish is not None:
            return []
        if isinstance(event, NewToken):
            if answer.tokens == 0:
                self.metrics.first_token(time.monotonic() - self._started)
            piece = answer.take(event)
        else:
            if event.reason == "error":
                raise ApiError(event.error or "the engine failed", None, "engine_error", 500)
            if event.reason == "cancelled":
                raise unavailable("the server is shutting down", "shutting_down")
            piece = answer.end(event)
        if piece is None:
            return []
        if piece.finish is not None:
            self._tickets[index].cancel()
        return [(index, piece)]

    def _timed_out(self) -> list[tuple[int, Piece]]:
        """Ends the answers that have begun as cut off.

        Raises:
            ApiError: none has begun.
        """
        if not any(answer.tokens for answer in self.answers):
            raise timed_out(round(time.monotonic() - self._started))
        ended = []
        for index, answer in enumerate(self.answers):
            if piece := answer.end(Finished("length")):
                answer.stopped_by = answer.stopped_by or "timeout"
                ended.append((index, piece))
        return ended

    def _cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def close(self) -> None:
        """Frees the slots of answers that have not ended. Call it however the request ends."""
        self._cancel()
        if self._timer is not None:
            self._timer.cancel()
            self.metrics.ended([answer.tokens for answer in self.answers], time.monotonic() - self._started)
            self._timer = None
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    @property
    def usage(self) -> dict[str, int]:
        new = sum(answer.tokens for answer in self.answers)
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": new, "total_tokens": self.prompt_tokens + new}
