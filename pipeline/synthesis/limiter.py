"""How many requests are in flight: fewer while a server says that it is busy, more again while it answers.

The limit is multiplied by 0.75 at a 429 and grows by 1 after as many successes as it is high: additive increase,
multiplicative decrease (Chiu and Jain 1989), with the factor of NVIDIA's DataDesigner. All requests that were in flight
when the limit fell count as one event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

FALL = 0.75


@dataclass
class Slot:
    """A request's place. round: number of falls before it was sent."""

    round: int


class Limiter:
    """Bounds the requests in flight.

    Args:
        most: the highest limit, with which it starts.

    Attributes:
        limit: at present. in_flight: requests with a slot.
    """

    def __init__(self, most: int) -> None:
        self.most, self.limit, self.in_flight = most, most, 0
        self._round = self._successes = 0
        self._resume = 0.0  # the event loop's time, which is monotonic
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def slot(self, again: bool = False) -> AsyncIterator[Slot]:
        """Waits for a place among the requests in flight, in the order of calls; again: before all that were never
        tried, so that a server that is down is noticed after the tries of a few requests."""
        if self._waiting or not self._is_free():
            mine = asyncio.get_running_loop().create_future()
            self._waiting.appendleft(mine) if again else self._waiting.append(mine)
            self._wake()
            try:
                await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled():  # it was given a place just before
                    self.in_flight -= 1
                    self._wake()
                raise
        else:
            self.in_flight += 1
        try:
            yield Slot(self._round)
        finally:
            self.in_flight -= 1
            self._wake()

    def succeeded(self) -> None:
        """After a reply."""
        self._successes += 1
        if self._successes >= self.limit and self.limit < self.most:
            self.limit += 1
            self._successes = 0
            self._wake()

    def busy(self, slot: Slot, pause: float) -> None:
        """After a 429: the limit falls, and nothing is sent for `pause` seconds."""
        loop = asyncio.get_running_loop()
        self._resume = max(self._resume, loop.time() + pause)
        if slot.round == self._round:
            self._round += 1
            self._successes = 0
            self.limit = max(1, int(self.limit * FALL))

    def _is_free(self) -> bool:
        return self.in_flight < self.limit and asyncio.get_running_loop().time() >= self._resume

    def _wake(self) -> None:
        """Gives places to those that wait, as far as there are any."""
        while self._waiting and self._is_free():
            future = self._waiting.popleft()
            if not future.done():
                self.in_flight += 1
                future.set_result(None)
        loop = asyncio.get_running_loop()
        if self._waiting and loop.time() < self._resume and self._timer is None:
            self._timer = loop.call_at(self._resume, self._resumed)

    def _resumed(self) -> None:
        self._timer = None
        self._wake()
