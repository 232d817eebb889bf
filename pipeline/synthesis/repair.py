"""One request, and a second one that shows what is wrong with the reply to the first."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.refusals import refusal
from pipeline.synthesis.reply_form import without_thoughts
from pipeline.synthesis.request import Draft, Reply, Request

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Why a reply cannot be used as it is: the rule and the reason of the rejected draft, and what the model is told;
    empty: asking again is of no use."""

    rule: str
    reason: str
    told: str = ""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What came of a request and its repair.

    Attributes:
        value: as read; None where nothing could be read. fault: what is still wrong with it.
        requests: that were asked. raw: text of the last reply.
    """

    value: T | None
    fault: Fault | None
    requests: tuple[Request, ...]
    raw: str

    def of(self, draft: Draft) -> Draft:
        """A draft that was made of the requests; rejected with the fault."""
        draft = draft.made_of(*self.requests)
        return draft.reject(self.fault.rule, self.fault.reason, self.raw) if self.fault else draft


LONGEST_SHOWN = 6000  # characters of a reply that its repair shows
Read = Callable[[Reply], tuple[T | None, Fault | None]]


def asked(request: Request, read: Read[T]) -> Generator[Request, Reply, Answer[T]]:
    """Asks, and where `read` has a fault to tell, once more with the reply and the fault in the conversation."""
    reply = yield request
    value, fault = _read(reply, read)
    if not fault or not fault.told:
        return Answer(value, fault, (request,), reply.text)
    messages = (*request.messages, ("assistant", shown(reply)), ("user", fault.told))
    again = replace(request, messages=messages, purpose="repair")
    reply = yield again
    value, fault = _read(reply, read)
    return Answer(value, fault, (request, again), reply.text)


def unread(reply: Reply, problem: str, told: str = "") -> Fault:
    """The fault of a reply that cannot be read. Nothing is told after a refusal, or where a limit or filter ended it.

    Args:
        problem: as the parser has it. told: what the model is told.
    """
    if reply.finish == "length":
        return Fault("cut-off", "the reply was cut off at teacher.max_tokens")
    if reply.finish == "content_filter":
        return Fault("refusal", "the provider's content filter ended the reply")
    if refusal(Texts("", "", without_thoughts(reply.text))):
        return Fault("refusal", "the teacher refuses")
    return Fault("unparsable", problem, told)


def shown(reply: Reply) -> str:
    """A reply as the request for its repair shows it."""
    return reply.text if len(reply.text) <= LONGEST_SHOWN else reply.text[:LONGEST_SHOWN] + " […]"


def _read(reply: Reply, read: Read[T]) -> tuple[T | None, Fault | None]:
    if reply.failure:
        return None, Fault("refused-request", reply.failure)
    return read(reply)
