"""Drives works and whole generations with a teacher that is a function of the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.filters import DraftFilters
from pipeline.synthesis.generation import Generation, Result
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.methods import method, note
from pipeline.synthesis.request import Draft, Reply, Request, Work
from pipeline.synthesis.spend import Budget

Says = Callable[[Request], Reply | str]


def driven(work: Work, says: Says | Sequence[Reply | str]) -> tuple[list[Draft], list[Request]]:
    """The drafts of a work, and what it asked, with these replies."""
    asked: list[Request] = []
    queue = None if callable(says) else list(says)
    reply: Reply | None = None
    try:
        while True:
            request = next(work) if reply is None else work.send(reply)
            asked.append(request)
            answer = says(request) if callable(says) else queue.pop(0)  # type: ignore[union-attr]
            reply = Reply(answer) if isinstance(answer, str) else answer
    except StopIteration as end:
        assert not queue, f"{len(queue or [])} replies were not asked for"
        drafts = end.value
        return (drafts if isinstance(drafts, list) else [drafts]), asked


def tasks(*rows: dict[str, Any]) -> str:
    """A reply with these tasks, as JSON."""
    whole = {"input": "", "output": "An output that is fine.", "classification": False}
    return json.dumps({"tasks": [{**whole, **row} for row in rows]}, ensure_ascii=False)


class FakeTeacher:
    """Answers by a function; remembers what it was asked."""

    def __init__(self, says: Says, journal: Journal) -> None:
        self.says, self.journal, self.asked = says, journal, []

    async def reply(self, request: Request) -> Reply:
        self.asked.append(request)
        await self.journal.sending(request, 0.0)
        await asyncio.sleep(0.0005 * (len(self.asked) * 7 % 5))  # replies come out of order
        answer = self.says(request)
        return Reply(answer, prompt_tokens=10, completion_tokens=10) if isinstance(answer, str) else answer

    async def close(self) -> None:
        pass


def generated(settings: Synthesis, folder: Path, says: Says) -> tuple[Result, list[Request]]:
    """A generation as the stage runs it, with the journal in this folder; and what was asked in it."""
    return asyncio.run(_generated(settings, folder, says))


async def _generated(settings: Synthesis, folder: Path, says: Says) -> tuple[Result, list[Request]]:
    journal = Journal(folder / "journal.jsonl")
    teacher = FakeTeacher(says, journal)
    note(settings, journal)
    asker = Asker(journal, Budget(settings, journal), {"teacher": teacher, "judge": teacher})
    filters = DraftFilters(settings)
    result = await Generation(method(settings, journal), filters, asker, settings.rows, settings.teacher.parallel).run()
    return result, teacher.asked
