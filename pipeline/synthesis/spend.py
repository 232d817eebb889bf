"""Tokens and money: what replies cost, and a budget that no number of requests in flight can exceed.

    reserve ----> sent -----> reply         its cost takes the place of the most that it could be
    (the most)    (journal)   refused       an error with a status costs nothing
                              nothing came  the most stays counted: it may have been paid for

Spent + sent + reserved never exceeds the budget, as long as the server keeps to `max_tokens`; where one counts more
than a request could cost, later reservations grow by the same factor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config.synthesis import Asked, Price, Synthesis
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply, Request, Role

MILLION = 1_000_000


class BudgetReached(Exception):
    """What is left of the budget may not suffice for a further request."""


class NotJournaled(Exception):
    """The reply is not in the journal, and nothing may be asked now."""


def cost_of(price: Price | None, prompt_tokens: int, completion_tokens: int) -> float | None:
    """In the price's currency; None where no price is known."""
    if price is None or price.input is None or price.output is None:
        return None
    return (prompt_tokens * price.input + completion_tokens * price.output) / MILLION


def most_cost(price: Price | None, request: Request) -> float:
    """The most that a request can cost; 0 where no price is known."""
    prompt = request.most_tokens() - request.max_tokens
    return cost_of(price, prompt, request.max_tokens) or 0.0


@dataclass(frozen=True)
class Limit:
    """A budget. unit: `tokens`, or a currency."""

    amount: float
    unit: str

    @classmethod
    def of(cls, text: str) -> Limit | None:
        """From `200000 tokens` or `5 USD`; None for no limit."""
        amount, _, unit = text.replace("_", "").partition(" ")
        return cls(float(amount), unit) if text else None


class Budget:
    """Spending of a run against its limit; all earlier commands of the run count.

    Args:
        settings: whose `budget` is the limit.
        journal: what was spent so far.

    Attributes:
        closed: nothing may be sent any more. on_wire: keys of requests that were sent and are awaited.
        handed_over: keys of those that are in a batch, which goes on when this command ends.
    """

    def __init__(self, settings: Synthesis, journal: Journal) -> None:
        self.limit, self.journal, self.closed = Limit.of(settings.budget), journal, False
        self.prices: dict[Role, Price | None] = {
            "teacher": settings.teacher.price, "judge": _judge_of(settings).price,
        }  # fmt: skip
        self.on_wire: set[str] = set()
        self.handed_over: set[str] = set()
        self._reserved: dict[str, float] = {}
        self._total = 0.0  # of what is reserved
        self._factor = 1.0
        self._settled = asyncio.Event()

    def price(self, request: Request) -> Price | None:
        return self.prices[request.role]

    def cost(self, request: Request, reply: Reply) -> float | None:
        """What a reply cost."""
        used, most = reply.prompt_tokens + reply.completion_tokens, request.most_tokens()
        self._factor = max(self._factor, used / most)
        return cost_of(self.price(request), reply.prompt_tokens, reply.completion_tokens)

    @property
    def in_money(self) -> bool:
        return self.limit is not None and self.limit.unit != "tokens"

    @property
    def spent(self) -> float:
        """In the limit's unit: replies, and the most of requests whose replies never came."""
        awaited = (self.journal.open[key][-1] for key in self.on_wire if key in self.journal.open)
        return self._sent - sum(most[self.in_money] for most in awaited)

    @property
    def _sent(self) -> float:
        journal = self.journal
        return journal.cost + journal.open_cost if self.in_money else journal.tokens + journal.open_tokens

    async def reserve(self, request: Request) -> None:
        """Waits until the most that one try of a request can cost is free.

        Raises:
            BudgetReached: it will not be: nothing is in flight that could cost less than was reserved for it.
            NotJournaled: nothing may be sent any more.
        """
        most = self._most(request)
        while not self.closed and self.limit and self._sent + self._total + most > self.limit.amount:
            if not self._reserved and not self.on_wire and not self.handed_over:
                raise BudgetReached
            self._settled.clear()
            await self._settled.wait()
        if self.closed:
            raise NotJournaled
        self._reserved[request.key] = most
        self._total += most

    async def sent(self, request: Request) -> None:
        """Journals that a request is sent now; what was reserved for it counts as sent.

        Raises:
            NotJournaled: nothing may be sent any more.
        """
        if self.closed:
            raise NotJournaled
        self.on_wire.add(request.key)
        noted = self.journal.sending(request, most_cost(self.price(request), request))
        self._release(request)
        await noted

    def failed(self, request: Request, free: bool) -> None:
        """After a try without a reply. free: it costs nothing, as with an error's status."""
        self.on_wire.discard(request.key)
        if free:
            self.journal.refused(request.key)
        self._settled.set()

    def hand_over(self, keys: Iterable[str]) -> None:
        """After requests that were sent are in a batch: the end of the command does not wait for them."""
        self.handed_over.update(keys)
        self.on_wire.difference_update(keys)

    def settle(self, request: Request) -> None:
        """After the reply is in the journal, or the request has failed."""
        self.on_wire.discard(request.key)
        self.handed_over.discard(request.key)
        self._release(request)
        self._settled.set()

    def wake(self) -> None:
        """Lets requests that wait for room look again, such as after `closed` was set."""
        self._settled.set()

    def _release(self, request: Request) -> None:
        self._total -= self._reserved.pop(request.key, 0.0)
        if not self._reserved:
            self._total = 0.0  # sums of floats leave a rest

    def _most(self, request: Request) -> float:
        most = most_cost(self.price(request), request) if self.in_money else request.most_tokens()
        return 0.0 if self.journal.is_pending(request.key) else most * self._factor


def _judge_of(settings: Synthesis) -> Asked:
    return settings.judge if settings.judge.model else settings.teacher
