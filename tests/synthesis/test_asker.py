"""The way of a request: journal, equal request in flight, budget, teacher, journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.errors import UserError
from pipeline.synthesis.asker import Asker, GaveUp
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply, Request
from pipeline.synthesis.spend import Budget, NotJournaled
from tests.helpers.asking import request, settings


class Scripted:
    """A teacher whose reply is the result of a function; a request is on the wire while it runs."""

    def __init__(self, budget: Budget, says: Callable[[str], Any], release: asyncio.Event | None = None) -> None:
        self.budget, self.says, self.release, self.asked = budget, says, release, list[str]()

    async def reply(self, request: Request) -> Reply:
        if request.messages[0][1].startswith("queued"):
            await asyncio.sleep(3600)
        await self.budget.sent(request)
        self.asked.append(request.messages[0][1])
        if self.release:
            await self.release.wait()
        result = self.says(request.messages[0][1])
        if isinstance(result, Exception):
            raise result
        return Reply(result)

    async def close(self) -> None:
        pass


def run(path: Path, main: Callable[[Asker, Scripted], Coroutine[Any, Any, None]], says: Callable[[str], Any]) -> None:
    async def work() -> None:
        journal = Journal(path)
        budget = Budget(settings("http://localhost/v1"), journal)
        teacher = Scripted(budget, says, asyncio.Event())
        assert teacher.release
        await main(Asker(journal, budget, {"teacher": teacher}), teacher)
        journal.close()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_equal_requests_are_sent_once(tmp_path: Path) -> None:
    async def main(asker: Asker, teacher: Scripted) -> None:
        assert teacher.release
        teacher.release.set()
        replies = await asyncio.gather(*(asker.ask(request("a")) for _ in range(9)))
        assert {reply.text for reply in replies} == {"A"}
        assert (await asker.ask(request("a"))).text == "A"
        await asker.ask(request("a", draw=1))
        assert teacher.asked == ["a", "a"]
        assert (asker.asked, len(asker.journal)) == (2, 2)

    run(tmp_path / "j.jsonl", main, str.upper)


def test_at_the_end_what_was_sent_is_awaited_and_nothing_else_is_sent(tmp_path: Path) -> None:
    async def main(asker: Asker, teacher: Scripted) -> None:
        asks = [asyncio.create_task(asker.ask(request(text))) for text in ("a", "b", "queued c")]
        while len(teacher.asked) < 2:
            await asyncio.sleep(0)
        asks[0].cancel()  # who waits may be gone: its reply is paid for
        drained = asyncio.create_task(asker.drain())
        await asyncio.sleep(0)
        assert teacher.release
        teacher.release.set()
        await drained
        results = await asyncio.gather(*asks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, Reply, asyncio.CancelledError]
        assert {reply.text for _, reply in asker.journal.replies()} == {"A", "B"}
        with pytest.raises(NotJournaled):
            await asker.ask(request("d"))
        assert (await asker.ask(request("b"))).text == "B"

    run(tmp_path / "j.jsonl", main, str.upper)


def test_an_error_for_all_closes_at_once(tmp_path: Path) -> None:
    async def main(asker: Asker, teacher: Scripted) -> None:
        assert teacher.release
        teacher.release.set()
        with pytest.raises(UserError):
            await asker.ask(request("a"))
        with pytest.raises(NotJournaled):
            await asker.ask(request("b"))
        assert teacher.asked == ["a"]

    run(tmp_path / "j.jsonl", main, lambda text: UserError("wrong key"))


def test_requests_that_gave_up_are_counted_by_reason(tmp_path: Path) -> None:
    async def main(asker: Asker, teacher: Scripted) -> None:
        assert teacher.release
        teacher.release.set()
        asks = (asker.ask(request(text)) for text in "abc")
        errors = await asyncio.gather(*asks, return_exceptions=True)
        assert all(isinstance(error, GaveUp) for error in errors)
        assert asker.gave_up == {"too late": 3}
        assert len(asker.journal.open) == 3  # they may be paid for

    run(tmp_path / "j.jsonl", main, lambda text: GaveUp("too late"))
