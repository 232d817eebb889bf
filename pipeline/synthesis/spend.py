"""Tokens and money: what replies cost, and a budget that no number of requests in flight can exceed.

Before a request is sent, the most that it can cost is reserved; when its reply comes, what it did cost takes the place
of that. So the sum of spent and reserved never exceeds the budget.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pipeline.config.synthesis import Asked, Price, Synthesis
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply, Request, Role

MILLION = 1_000_000


class BudgetReached(Exception):
    """What is left of the budget may not suffice for a further request."""


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
    """

    def __init__(self, settings: Synthesis, journal: Journal) -> None:
        self.limit, self.journal = Limit.of(settings.budget), journal
        self.prices: dict[Role, Price | None] = {
            "teacher": settings.teacher.price, "judge": _judge_of(settings).price,
        }  # fmt: skip
        self._reserved: dict[str, float] = {}
        self._settled = asyncio.Event()

    def price(self, request: Request) -> Price | None:
        return self.prices[request.role]

    def cost(self, request: Request, reply: Reply) -> float | None:
        """What a reply cost."""
        return cost_of(self.price(request), reply.prompt_tokens, reply.completion_tokens)

    @property
    def spent(self) -> float:
        """In the limit's unit: replies, and requests of earlier commands whose replies never came."""
        lost = [most for key, most in self.journal.open.items() if key not in self._reserved]
        if self.limit and self.limit.unit != "tokens":
            return self.journal.cost + sum(cost for _, cost in lost)
        return self.journal.tokens + sum(tokens for tokens, _ in lost)

    async def reserve(self, request: Request) -> None:
        """Waits until the most that a request can cost is free.

        Raises:
            BudgetReached: it will not be: nothing is in flight that could cost less than was reserved for it.
        """
        most = self._most(request)
        while self.limit and self.spent + sum(self._reserved.values()) + most > self.limit.amount:
            if not self._reserved:
                raise BudgetReached
            self._settled.clear()
            await self._settled.wait()
        self._reserved[request.key] = most

    def settle(self, request: Request) -> None:
        """After the reply is in the journal, or the request has failed."""
        self._reserved.pop(request.key, None)
        self._settled.set()

    def _most(self, request: Request) -> float:
        if self.limit and self.limit.unit != "tokens":
            return most_cost(self.price(request), request)
        return request.most_tokens()


def _judge_of(settings: Synthesis) -> Asked:
    return settings.judge if settings.judge.model else settings.teacher
