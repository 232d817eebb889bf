"""Engines on tiny models, and answers collected from them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.serving.engine.batch import Batch
from pipeline.serving.engine.batch_engine import BatchEngine, Limits, Route
from pipeline.serving.engine.decoder import decoder_of
from pipeline.serving.engine.request import (
    Engine,
    Event,
    Finished,
    GenerationRequest,
    NewToken,
    Sampling,
    Ticket,
)

LARGE = 1 << 30


@dataclass
class Collected:
    """The events of one request.

    Attributes:
        tokens: so far. finished: the last event. after: number of tokens after which `reached` is set.
    """

    tokens: list[NewToken] = field(default_factory=list)
    finished: Finished | None = None
    after: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    ticket: Ticket | None = None

    def __call__(self, event: Event) -> None:
        assert self.finished is None, "an event after the last one"
        if isinstance(event, NewToken):
            self.tokens.append(event)
            if len(self.tokens) >= self.after:
                self.reached.set()
        else:
            self.finished = event
            self.over.set()

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    def wait(self) -> Collected:
        assert self.over.wait(60), "the request did not end"
        return self


def request(
    ids: Sequence[int], model: str = "base", max_tokens: int = 20, end: Sequence[int] = (2,),
    top_logprobs: int | None = None, **sampling: Any,
) -> GenerationRequest:  # fmt: skip
    return GenerationRequest(model, tuple(ids), max_tokens, frozenset(end), Sampling(**sampling), top_logprobs)


def start(engine: Engine, asked: GenerationRequest, after: int = 0) -> Collected:
    collected = Collected(after=after)
    collected.ticket = engine.submit(asked, collected)
    return collected


def answers(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Collected]:
    """All requests at once."""
    return [collected.wait() for collected in [start(engine, one) for one in requests]]


@contextlib.contextmanager
def engine_of(
    model: Any, slots: int = 4, queue: int = 64, context: int = 512, cache: int = LARGE
) -> Iterator[BatchEngine]:
    """An engine that serves one model as `base`."""
    engine = BatchEngine({"base": Route(Batch(decoder_of(model), None, context))}, Limits(slots, queue, cache))
    try:
        yield engine
    finally:
        engine.close()
