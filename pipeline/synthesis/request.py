"""What a teacher is asked and what it answers; work is a generator that yields requests and is sent the replies.

    item number -> Work ... yield Request ... <- Reply ... return [Draft, ...]

A request is known by a hash of its content. So its reply is found in the journal whatever run, filter or number of rows
asked for it, and work that is started again with the same replies ends with the same drafts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.run.files import sha256_json

Role = Literal["teacher", "judge"]


@dataclass(frozen=True)
class Request:
    """One request to a model.

    Attributes:
        messages: the conversation, as (role, content).
        max_tokens: longest reply.
        temperature: None: the server's own.
        schema: JSON schema that the reply is to follow; None: any text.
        purpose: in a word, for counts and reports, such as `tasks` or `repair`.
        model: name of the model that is asked.
        role: whose settings say where that model is.
        draw: which of several equal requests this is; 1 asks a second time for another reply.
        extra: further fields of the body.
    """

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float | None
    model: str
    purpose: str
    schema: Mapping[str, Any] | None = None
    role: Role = "teacher"
    draw: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def key(self) -> str:
        """Hash of all that the reply depends on, 32 hex digits."""
        return sha256_json(
            [self.model, self.messages, self.max_tokens, self.temperature, self.schema, self.draw, dict(self.extra)]
        )[:32]

    def most_tokens(self) -> int:
        """Most tokens that this request can cost: each token has at least one byte, and a message a few around it."""
        prompt = sum(len(content.encode("utf-8", "surrogatepass")) + 16 for _, content in self.messages)
        schema = len(json.dumps(self.schema)) if self.schema is not None else 0  # servers put it into the prompt
        return prompt + schema + self.max_tokens


@dataclass(frozen=True)
class Reply:
    """What came back for one request.

    Attributes:
        text: of the reply; empty where there is none.
        finish: why it ended, as the server says: stop, length, content_filter.
        failure: why there is no reply and never will be one for this request, such as a prompt that is too long.
        model: as the server names it.
        prompt_tokens, completion_tokens: as the server counts them, or where it does not, at most so many.
        cost: in the currency of the price; None where no price is known.
        time: when it came, ISO 8601 in UTC. seconds: that it took, pauses and further tries included.
        place: where the model was asked: a host, or `this machine`; empty in journals of earlier versions.
    """

    text: str
    finish: str = "stop"
    failure: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    time: str = ""
    seconds: float = 0.0
    place: str = ""


@dataclass(frozen=True)
class Draft:
    """A row in the making, or one that was rejected.

    Attributes:
        origin: what it was made from: hashes of seeds, place of a source row, passage of a document.
        requests: keys of the replies that it was made of, in order.
        rejected: rule and reason; None while the row is good.
        raw: text of the reply that could not be used; kept with the rejected row.
        notes: what methods hand from the first phase to the second, such as whether it is a classification task.
    """

    instruction: str = ""
    input: str = ""
    output: str = ""
    task: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[str, ...] = ()
    rejected: tuple[str, str] | None = None
    raw: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def reject(self, rule: str, reason: str, raw: str = "") -> Draft:
        """The same, rejected by a rule."""
        return replace(self, rejected=(rule, reason), raw=raw or self.raw)

    def made_of(self, *requests: Request) -> Draft:
        """The same, with further requests that it was made of."""
        return replace(self, requests=(*self.requests, *(request.key for request in requests)))


Work = Generator[Request, Reply, list[Draft]]
"""The work of an item or a draft: yields requests, is sent their replies, ends with drafts."""
Step = Generator[Request, Reply, Draft]
"""A part of a work, for `yield from`: it ends with one draft."""


async def drafts_of(work: Work, ask: Callable[[Request], Awaitable[Reply]]) -> list[Draft]:
    """Runs work to its end.

    Args:
        ask: replies to its requests; what it raises ends the work.
    """
    reply: Reply | None = None
    try:
        while True:
            request = next(work) if reply is None else work.send(reply)
            reply = await ask(request)
    except StopIteration as end:
        drafts: list[Draft] = end.value
        return drafts
