"""A teacher on this machine: any base that the project loads, asked in batches.

    requests wait --> a batch of like lengths --> a thread generates --> replies

A reply depends on its request alone: the seed of its random numbers is the request's key. Whatever stands in a batch
with it, the reply is the same up to rounding.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import Model
from pipeline.config.synthesis import Asked
from pipeline.model.base import Base, kind_of, resolve
from pipeline.run.errors import UserError
from pipeline.run.progress import working
from pipeline.synthesis.asker import NotJournaled
from pipeline.synthesis.request import Reply, Request

if TYPE_CHECKING:
    from pipeline.model.chat_prompt import ChatPrompt
    from pipeline.model.sample import Answer

TICK = 0.02  # seconds in which further requests of the same moment may join a batch
EXTRA = "top_p"  # the one field of `extra` that is known here
DEFAULT_TEMPERATURE = 1.0  # for null


@dataclass(frozen=True)
class _Waiting:
    request: Request
    reply: asyncio.Future[Reply]

    @property
    def length(self) -> int:
        return sum(len(content) for _, content in self.request.messages)


@dataclass(frozen=True)
class _Loaded:
    """The model with what encodes its prompts. context: most tokens of prompt and reply."""

    model: Any
    prompt: ChatPrompt
    context: int


def check(asked: Asked, section: str) -> None:
    """What can be wrong before the model is loaded.

    Args:
        section: of the config, for messages, such as `synthesis.teacher`.

    Raises:
        UserError: no model is named or none of that name exists; a field of `extra` is unknown.
    """
    if not asked.model:
        fix = "a hub id, a folder with safetensors, or a .gguf file"
        raise UserError("no model is named", f"{section}.model", fix)
    with _naming(section):
        kind_of(Model(base=asked.model))
    if unknown := sorted(asked.extra.keys() - {EXTRA}):
        what = f"a local model knows no field {unknown[0]!r}"
        raise UserError(what, f"{section}.extra", f"remove it; there is {EXTRA}")
    top_p = asked.extra.get(EXTRA, 1.0)
    if not isinstance(top_p, (int, float)) or not 0 < top_p <= 1:
        raise UserError(f"top_p = {top_p!r} is no number above 0, up to 1", f"{section}.extra", "such as top_p: 0.9")


class LocalTeacher:
    """Generates replies on this machine. The model is loaded for the first request; costs are None.

    Nothing is noted in the journal before a reply comes: a reply that is lost was not paid for.

    Args:
        section: of the config, for messages.
        started: called with each request when its batch begins; before that it may be cancelled.
    """

    def __init__(
        self, asked: Asked, section: str = "synthesis.teacher",
        started: Callable[[Request], None] = lambda request: None,
    ) -> None:  # fmt: skip
        check(asked, section)
        self.asked, self.section, self.started = asked, section, started
        path = asked.model.rstrip("/")
        self._name = os.path.basename(path) if os.path.isabs(path) else path  # no folder of this machine in the rows
        self._queue: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._loaded: _Loaded | None = None
        self._cancel = threading.Event()

    async def reply(self, request: Request) -> Reply:
        """Raises: UserError: the model cannot be loaded, or its logits are not finite."""
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.reply

    async def close(self) -> None:
        """Ends a batch early, where one still runs."""
        self._queue.clear()
        self._cancel.set()
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        """Answers requests until none waits."""
        while self._queue:
            await self._gathered()
            if not (batch := self._next_batch()):
                continue
            for waiting in batch:
                self.started(waiting.request)
            result: list[Reply] | BaseException
            try:
                result = await asyncio.to_thread(self._answer, [waiting.request for waiting in batch])
            except asyncio.CancelledError:
                self._cancel.set()  # the thread goes on to the next token, or Ctrl-C would wait for the whole batch
                raise
            except Exception as error:  # raised again by each of the requests
                result = error
            for n, waiting in enumerate(batch):
                if waiting.reply.done():
                    continue
                if isinstance(result, BaseException):
                    waiting.reply.set_exception(result)
                else:
                    waiting.reply.set_result(result[n])

    async def _gathered(self) -> None:
        """Waits while further requests come in, up to a full batch."""
        count = -1
        while count < len(self._queue) < self.asked.parallel:
            count = len(self._queue)
            await asyncio.sleep(TICK)

    def _next_batch(self) -> list[_Waiting]:
        """The oldest request and those nearest to it in length, as many as `parallel` says; empty where none waits."""
        self._queue = [w for w in self._queue if not w.reply.done()]  # without those that were cancelled
        if not self._queue:
            return []
        oldest = self._queue[0]
        alike = [w for w in self._queue if w.request.extra == oldest.request.extra]
        alike.sort(key=lambda w: (w is not oldest, abs(w.length - oldest.length)))
        batch = alike[: self.asked.parallel]
        taken = set(map(id, batch))
        self._queue = [w for w in self._queue if id(w) not in taken]
        return batch

    def _answer(self, requests: list[Request]) -> list[Reply]:
        """The replies of one batch; runs in a thread."""
        from pipeline.model.sample import Question, sample

        begin = time.monotonic()
        if self._loaded is None:
            self._loaded = _load(self.asked, self.section)
        loaded = self._loaded
        prompts = [loaded.prompt.ids(request.messages) for request in requests]
        fitting = [n for n, ids in enumerate(prompts) if len(ids) < loaded.context]
        questions = [
            Question(prompts[n], min(requests[n].max_tokens, loaded.context - len(prompts[n])),
                     _temperature(requests[n]), int(requests[n].key[:16], 16))
            for n in fitting
        ]  # fmt: skip
        top_p = float(requests[0].extra.get(EXTRA, 1.0))
        with _naming(self.section):
            answers = sample(loaded.model, questions, loaded.prompt.end_ids, top_p, self._cancel)
        if any(answer.end == "cancelled" for answer in answers):
            raise NotJournaled
        seconds = time.monotonic() - begin
        by_place = dict(zip(fitting, answers, strict=True))
        return [self._reply(loaded, len(prompts[n]), by_place.get(n), seconds) for n in range(len(requests))]

    def _reply(self, loaded: _Loaded, prompt_tokens: int, answer: Answer | None, seconds: float) -> Reply:
        """answer: None where the prompt is too long."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if answer is None:
            why = f"the prompt has {prompt_tokens:,} tokens, the teacher's context {loaded.context:,}"
            return Reply("", failure=why, model=self._name, time=now)
        return Reply(
            loaded.prompt.tokenizer.decode(answer.ids), "stop" if answer.end == "stop" else "length",
            model=self._name, prompt_tokens=prompt_tokens, completion_tokens=answer.tokens, time=now,
            seconds=round(seconds, 3),
        )  # fmt: skip


def _load(asked: Asked, section: str) -> _Loaded:
    """Raises: UserError."""
    with working("generate: loading torch, transformers and the teacher"), _naming(section):
        from pipeline.model.chat_prompt import ChatPrompt
        from pipeline.model.load import context_length, load_base

        settings = Model(base=asked.model)
        base: Base = resolve(settings)
        prompt = ChatPrompt(base)
        model = load_base(settings, base, seed=0)
    limits = [limit for limit in (context_length(model.config), asked.context) if limit]
    return _Loaded(model, prompt, min(limits, default=1 << 30))


def _temperature(request: Request) -> float:
    return DEFAULT_TEMPERATURE if request.temperature is None else request.temperature


@contextlib.contextmanager
def _naming(section: str) -> Iterator[None]:
    """Errors of the model's files name the key of the config, not `model.base`, which is another model."""
    try:
        yield
    except UserError as error:
        key = f"{section}.model"
        place = "" if error.where in ("model.base", "memory", "") else f", {error.where}"
        fix = "choose a smaller model, or free the card" if "model.quantize" in error.fix else error.fix
        raise UserError(error.what.replace("base model", "model"), f"{key}{place}", fix) from None
