"""The budget holds whatever is in flight, and counts what may have been paid for."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.synthesis import Price, Synthesis
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply, Request
from pipeline.synthesis.spend import Budget, BudgetReached, NotJournaled, cost_of, most_cost
from tests.helpers.asking import request, settings

PRICE = {"input": 2.0, "output": 10.0}


def synthesis(budget: str, **teacher: Any) -> Synthesis:
    return settings("http://localhost/v1", budget, price=PRICE, **teacher)


class Paid:
    """A teacher that counts what it was paid, as a server would."""

    def __init__(self, budget: Budget, tokens: tuple[int, int], lost: bool = False) -> None:
        self.budget, self.usage, self.lost, self.tokens, self.calls = budget, tokens, lost, 0, 0

    async def reply(self, request: Request) -> Reply:
        await self.budget.sent(request)
        self.calls += 1
        self.tokens += sum(self.usage)
        for _ in range(random.Random(request.key).randrange(5)):
            await asyncio.sleep(0)
        if self.lost and self.calls % 3 == 0:
            self.budget.failed(request, free=False)
            await self.budget.reserve(request)
            return await self.reply(request)
        return Reply("text", "stop", "", "m", *self.usage)

    async def close(self) -> None:
        pass


def spend(path: Path, section: Synthesis, usage: tuple[int, int], count: int = 200, lost: bool = False) -> Any:
    """Asks `count` requests at once; the teacher, the budget, the outcomes."""

    async def main() -> Any:
        journal = Journal(path)
        budget = Budget(section, journal)
        teacher = Paid(budget, usage, lost)
        asker = Asker(journal, budget, {"teacher": teacher})
        asks = [asker.ask(request(f"question {i}")) for i in range(count)]
        outcomes = await asyncio.gather(*asks, return_exceptions=True)
        await asker.drain()
        journal.close()
        return teacher, budget, outcomes

    return asyncio.run(main())


def test_costs() -> None:
    price = Price(input=2.0, output=10.0)
    assert cost_of(price, 1000, 100) == 0.003
    assert cost_of(Price(input=2.0), 1000, 100) is None
    assert cost_of(None, 1, 1) is None
    asked = request("four")
    assert asked.most_tokens() == 4 + 16 + 50
    assert most_cost(price, asked) == pytest.approx((20 * 2 + 50 * 10) / 1e6)


def test_a_schema_counts_as_a_part_of_the_prompt() -> None:
    schema = {"type": "object"}
    assert request("a", schema=schema).most_tokens() == request("a").most_tokens() + len('{"type": "object"}')


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(("budget", "limit"), [("3000 tokens", 3000.0), ("0.02 USD", 0.02)])
def test_a_budget_holds_under_many_requests_at_once(tmp_path: Path, budget: str, limit: float, lost: bool) -> None:
    teacher, spent, outcomes = spend(tmp_path / "j.jsonl", synthesis(budget), (20, 12), lost=lost)
    replies = [reply for reply in outcomes if isinstance(reply, Reply)]
    paid = teacher.tokens if spent.limit.unit == "tokens" else teacher.calls * (20 * 2 + 12 * 10) / 1e6
    assert paid <= limit + 1e-12
    assert paid > limit * (0.2 if lost else 0.8)
    assert spent.spent >= paid - 1e-12
    assert any(isinstance(error, BudgetReached) for error in outcomes)
    assert len(replies) == len(spent.journal)
    # Another command knows what was spent, and sends nothing more.
    again, after, _ = spend(tmp_path / "j.jsonl", synthesis(budget), (20, 12))
    assert (again.tokens + teacher.tokens if spent.limit.unit == "tokens" else 0) <= limit
    assert after.spent <= limit + 1e-12


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    first, _, _ = spend(tmp_path / "j.jsonl", synthesis("1000 tokens"), (20, 12))
    second, budget, outcomes = spend(tmp_path / "j.jsonl", synthesis("100000 tokens"), (20, 12))
    assert first.calls + second.calls == 200
    assert all(isinstance(reply, Reply) for reply in outcomes)
    assert budget.spent == 200 * 32


def test_replies_that_cost_more_than_they_could_raise_later_reservations(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(tmp_path / "j.jsonl")
        budget = Budget(synthesis("100000 tokens"), journal)
        asked = request("a")
        budget.cost(asked, Reply("", prompt_tokens=3 * asked.most_tokens()))
        await budget.reserve(asked)
        assert budget._total == 3 * asked.most_tokens()

    asyncio.run(main())


def test_a_closed_budget_lets_nothing_be_sent(tmp_path: Path) -> None:
    async def main() -> None:
        budget = Budget(synthesis("200 tokens"), Journal(tmp_path / "j.jsonl"))
        await budget.reserve(request("a"))
        waiting = asyncio.create_task(budget.reserve(request("b" * 100)))
        await asyncio.sleep(0)
        budget.closed = True
        budget.wake()
        for work in (waiting, budget.sent(request("a")), budget.reserve(request("c"))):
            with pytest.raises(NotJournaled):
                await work
        assert not budget.on_wire

    asyncio.run(main())


def test_a_request_of_a_batch_that_was_handed_over_needs_no_further_room(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(tmp_path / "j.jsonl")
        budget, asked = Budget(synthesis("100 tokens"), journal), request("a" * 30)
        await journal.sending(asked, 0.0)
        await journal.hand_over("b", [asked.key])
        await budget.reserve(asked)
        budget.settle(asked)
        with pytest.raises(BudgetReached):
            await budget.reserve(request("b"))

    asyncio.run(main())
