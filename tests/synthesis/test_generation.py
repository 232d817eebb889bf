"""The loop asks for no more than it needs, decides in order, and ends at once where nothing can succeed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.errors import UserError
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.generation import PATIENCE, Generation, Result
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Draft, Reply, Request, Work
from pipeline.synthesis.spend import Budget
from tests.helpers.asking import request, settings


class Tasks:
    """Three drafts an item, each finished by a second request."""

    def __init__(self, items: int | None, keeps: Callable[[int], bool] = lambda number: True) -> None:
        self.items, self.keeps, self.rows_per_item = items, keeps, 3

    def draft(self, number: int) -> Work:
        asked = request(f"item {number}")
        yield asked
        drafts = [Draft(f"{number}.{part}").made_of(asked) for part in range(3)]
        return drafts if self.keeps(number) else [draft.reject("dull", "") for draft in drafts]

    def finish(self, draft: Draft) -> Work:
        reply = yield request(f"finish {draft.instruction}")
        return [Draft(draft.instruction, "", reply.text)]


class Passes:
    def draft(self, draft: Draft) -> Draft:
        return draft

    row = draft


class Delayed:
    """A teacher whose replies come in another order for each seed."""

    def __init__(self, seed: int, says: Callable[[str], Any] = str.upper) -> None:
        self.chance, self.says, self.asked = random.Random(seed), says, list[str]()

    async def reply(self, request: Request) -> Reply:
        text = request.messages[0][1]
        self.asked.append(text)
        for _ in range(self.chance.randrange(30)):
            await asyncio.sleep(0)
        result = self.says(text)
        if isinstance(result, Exception):
            raise result
        return Reply(result)

    async def close(self) -> None:
        pass


def run(path: Path, method: Tasks, teacher: Delayed | None, rows: int, parallel: int = 4) -> Result:
    async def main() -> Result:
        section, journal = settings("http://localhost/v1"), Journal(path)
        asker = Asker(journal, Budget(section, journal), {"teacher": teacher} if teacher else {})
        try:
            return await asyncio.wait_for(Generation(method, Passes(), asker, rows, parallel).run(), 30)
        finally:
            journal.close()

    return asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_no_more_items_are_asked_for_than_needed(tmp_path: Path, seed: int) -> None:
    """Also where all may be in flight at once, as in a batch."""
    teacher = Delayed(seed)
    result = run(tmp_path / "j.jsonl", Tasks(None), teacher, rows=60, parallel=1000)
    assert [row.instruction for row in result.rows] == [f"{i}.{part}" for i in range(20) for part in range(3)]
    assert sum(text.startswith("item") for text in teacher.asked) == 20


def test_a_low_yield_is_made_up_for(tmp_path: Path) -> None:
    teacher = Delayed(0)
    result = run(tmp_path / "j.jsonl", Tasks(None, lambda number: number % 5 == 0), teacher, 60, parallel=1000)
    assert len(result.rows) == 60
    items = sum(text.startswith("item") for text in teacher.asked)
    assert 96 <= items < 200


@pytest.mark.parametrize("seed", range(4))
def test_a_barren_stretch_ends_a_run_and_its_replay_alike(tmp_path: Path, seed: int) -> None:
    """The first item's rows come late; the stretch is counted from them, whatever came meanwhile."""
    for barren, ends in ((PATIENCE - 1, False), (PATIENCE, True)):
        path = tmp_path / f"{barren}.jsonl"
        method = Tasks(None, lambda number, barren=barren: not 2 <= number < 2 + barren)  # type: ignore[misc]
        for teacher in (Delayed(seed), None):
            if ends:
                with pytest.raises(UserError, match=f"the last {PATIENCE} requests gave no row; 6 are kept"):
                    run(path, method, teacher, rows=30)
            else:
                assert len(run(path, method, teacher, rows=30).rows) == 30


def test_an_error_for_all_does_not_wait_for_older_items(tmp_path: Path) -> None:
    class Stuck(Delayed):
        async def reply(self, request: Request) -> Reply:
            if request.messages[0][1] == "item 0":
                await asyncio.sleep(3600)
            return await super().reply(request)

    teacher = Stuck(0, lambda text: UserError("wrong key"))
    with pytest.raises(UserError, match="wrong key"):
        run(tmp_path / "j.jsonl", Tasks(None), teacher, rows=30)
    assert len(teacher.asked) <= 16


def test_what_a_method_raises_is_not_swallowed(tmp_path: Path) -> None:
    class Broken(Tasks):
        def finish(self, draft: Draft) -> Work:
            yield request("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "j.jsonl", Broken(None), Delayed(0), rows=30)
