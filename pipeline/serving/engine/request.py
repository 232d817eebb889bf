"""What the server asks of the engine, and what comes back; needs no torch.

One thread generates for all requests:

    HTTP thread                      engine thread
    submit(request, listener) ─────> waiting ─> slot ─> prompt ─> a token a step for all slots together
    Ticket.cancel() ───────────────> the slot is free after the current step
    listener(NewToken | Finished) <─ called on the engine's thread, in order, `Finished` once and last
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

Kind = Literal["base", "export", "adapter"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0: the most likely one.

    Attributes:
        top_p: smallest share of probability that the candidates hold. top_k: most candidates; 0 = all.
        repetition_penalty: of CTRL (Keskar et al. 2019), over prompt and answer. frequency_penalty, presence_penalty:
            OpenAI's, over the answer.
        seed: None: another answer each time. With a seed the answer is the same in any batch, up to rounding.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt.

    Attributes:
        model: name of a served model. ids: of the prompt, encoded as in training.
        max_tokens: longest answer, end token included. end_ids: each ends the answer.
        top_logprobs: None: no log-probabilities; else number of alternatives for each token.
    """

    model: str
    ids: tuple[int, ...]
    max_tokens: int
    end_ids: frozenset[int]
    sampling: Sampling = field(default_factory=Sampling)
    top_logprobs: int | None = None


@dataclass(frozen=True)
class NewToken:
    """logprob: in nats, before temperature and penalties; None unless asked for. top: (id, logprob), best first."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Finished:
    """Why the answer ended: its end token, `max_tokens`, or the request was cancelled; or `error`, a sentence."""

    reason: Literal["stop", "length", "cancelled", "error"]
    error: str = ""


Event = NewToken | Finished
Listener = Callable[[Event], None]


class Ticket(Protocol):
    """A submitted request."""

    def cancel(self) -> None:
        """Ends the request; no effect when it has ended. Any thread may call it."""


@dataclass(frozen=True)
class EngineStatus:
    """running, waiting: requests. slots: most that run at once. prompt_tokens, new_tokens: since the start."""

    running: int
    waiting: int
    slots: int
    prompt_tokens: int
    new_tokens: int


class Full(Exception):
    """The queue is full; the request was not taken."""


class Engine(Protocol):
    """Generates for many requests at once. Every method may be called by any thread."""

    def submit(self, request: GenerationRequest, listener: Listener) -> Ticket:
        """Queues a request. Raises: Full."""

    def status(self) -> EngineStatus: ...

    def close(self) -> None:
        """Ends all requests as cancelled and the engine's thread."""
