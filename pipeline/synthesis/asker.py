"""The way of one request: journal, budget, teacher, journal.

ask --> in the journal? --> equal request in flight? --> reserve budget --> teacher --> journal --> reply
          yes: its reply        yes: wait for that
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from pipeline.run.errors import UserError
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply, Request, Role
from pipeline.synthesis.spend import Budget, NotJournaled


class Teacher(Protocol):
    """A model that answers requests, many at a time."""

    async def reply(self, request: Request) -> Reply:
        """The model's reply, without its cost.

        Raises:
            GaveUp: this request failed after all tries; others may not.
            UserError: no request can succeed, such as with a wrong key.
        """

    async def close(self) -> None:
        """Ends connections; called once, at the end."""


class GaveUp(Exception):
    """A request failed after all tries. The next command tries it again."""


class Asker:
    """Answers requests from the journal, or from a teacher.

    Args:
        teachers: by role; empty: nothing is asked, as for a replay. places: where they are, noted with each reply.

    Attributes:
        asked: replies that teachers gave in this command. gave_up: requests without a reply, by what went wrong.
    """

    def __init__(
        self, journal: Journal, budget: Budget, teachers: Mapping[Role, Teacher],
        places: Mapping[Role, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.journal, self.budget, self.teachers = journal, budget, teachers
        self.places, self.asked, self.gave_up = places, 0, Counter[str]()
        self._in_flight: dict[str, asyncio.Task[Reply]] = {}

    @property
    def closed(self) -> bool:
        """Whether no further request is sent."""
        return self.budget.closed

    @closed.setter
    def closed(self, closed: bool) -> None:
        self.budget.closed = closed
        self.budget.wake()

    async def ask(self, request: Request) -> Reply:
        """The reply to a request; it is in the journal when this returns.

        Raises:
            BudgetReached, NotJournaled, GaveUp: no reply now. UserError: as of the teacher, and of a full disk.
        """
        if reply := self.journal.reply(request.key):
            return reply
        if request.key not in self._in_flight:
            if self.closed or not self.teachers:
                raise NotJournaled
            task = asyncio.create_task(self._asked(request))
            self._in_flight[request.key] = task
            task.add_done_callback(lambda task: self._done(request.key, task))
        return await asyncio.shield(self._in_flight[request.key])

    async def drain(self) -> None:
        """Waits for the requests that were sent, which may be paid for; no further one is sent."""
        self.closed = True
        tasks = dict(self._in_flight)
        for key, task in tasks.items():
            if key not in self.budget.on_wire:
                task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await self.journal.flush()

    async def _asked(self, request: Request) -> Reply:
        try:
            await self.budget.reserve(request)
            reply = await self.teachers[request.role].reply(request)
            place = self.places.get(request.role, "")
            reply = replace(reply, cost=self.budget.cost(request, reply), place=place)
            await self.journal.add(request.key, reply, request.purpose)
            self.asked += 1
            return reply
        except GaveUp as error:
            self.gave_up[str(error)] += 1
            raise
        except UserError:
            self.closed = True
            raise
        finally:
            self.budget.settle(request)

    def _done(self, key: str, task: asyncio.Task[Reply]) -> None:
        self._in_flight.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, also where nothing waits for it any more
