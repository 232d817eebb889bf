"""The limit on requests in flight falls when a server is busy and climbs back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from pipeline.synthesis.limiter import Limiter


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


def test_no_more_than_the_limit_at_once_and_in_order() -> None:
    async def main() -> None:
        limiter, most, order = Limiter(3), 0, []

        async def use(number: int) -> None:
            nonlocal most
            async with limiter.slot():
                order.append(number)
                most = max(most, limiter.in_flight)
                await asyncio.sleep(0)

        await asyncio.gather(*map(use, range(20)))
        assert (most, limiter.in_flight) == (3, 0)
        assert order == list(range(20))

    run(main())


def test_a_burst_of_refusals_is_one_fall() -> None:
    async def main() -> None:
        limiter = Limiter(64)
        async with limiter.slot() as first, limiter.slot() as second:
            limiter.busy(first, 0)
            limiter.busy(second, 0)
            assert limiter.limit == 48
        async with limiter.slot() as later:
            limiter.busy(later, 0)
        assert limiter.limit == 36

    run(main())


def test_it_never_falls_below_one_and_climbs_back_to_the_most() -> None:
    async def main() -> None:
        limiter = Limiter(4)
        for _ in range(9):
            async with limiter.slot() as slot:
                limiter.busy(slot, 0)
        assert limiter.limit == 1
        limits = []
        for _ in range(1 + 2 + 3 + 9):
            limiter.succeeded()
            limits.append(limiter.limit)
        assert limits[:6] == [2, 2, 3, 3, 3, 4]
        assert limits[-1] == 4

    run(main())


def test_nothing_is_sent_while_the_server_wants_a_pause() -> None:
    async def main() -> None:
        limiter, loop = Limiter(2), asyncio.get_running_loop()
        async with limiter.slot() as slot:
            limiter.busy(slot, 0.05)
        end = limiter._resume
        async with limiter.slot(), asyncio.timeout(5):
            assert loop.time() >= end

    run(main())


def test_what_is_tried_again_goes_first() -> None:
    async def main() -> None:
        limiter, order = Limiter(1), []

        async def use(name: str, again: bool) -> None:
            async with limiter.slot(again):
                order.append(name)

        async with limiter.slot():
            tasks = [asyncio.create_task(use(*each)) for each in (("new", False), ("again", True))]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert order == ["again", "new"]

    run(main())


@pytest.mark.parametrize("given", [False, True])
def test_a_cancelled_one_leaves_its_place(given: bool) -> None:
    async def main() -> None:
        limiter = Limiter(1)

        async def use() -> None:
            async with limiter.slot():
                await asyncio.sleep(0)

        async with limiter.slot():
            waiting, behind = asyncio.create_task(use()), asyncio.create_task(use())
            await asyncio.sleep(0)
            if not given:
                waiting.cancel()
        if given:  # it has a place, and has not run since
            waiting.cancel()
        await behind
        assert waiting.cancelled()
        assert limiter.in_flight == 0

    run(main())
