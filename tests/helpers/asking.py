"""Asks teachers without a method, for tests of what is between a request and its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.synthesis import Synthesis
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.request import Reply, Request
from pipeline.synthesis.spend import Budget
from pipeline.synthesis.teachers import teachers_of


def settings(url: str, budget: str = "", **teacher: Any) -> Synthesis:
    """A section `synthesis` whose teacher is at this address."""
    asked = {"model": "m", "base_url": url, "terms": "free", "max_tokens": 50, "timeout": 5, **teacher}
    return Synthesis.model_validate({"method": "self-instruct", "budget": budget, "teacher": asked})


def request(text: str, **more: Any) -> Request:
    return Request((("user", text),), 50, 0.7, "m", "tasks", **more)


def asked(path: Path, synthesis: Synthesis, requests: Sequence[Request]) -> list[Reply | BaseException]:
    """Replies or errors, in order; what the journal holds is used."""

    async def main() -> list[Reply | BaseException]:
        journal = Journal(path)
        budget = Budget(synthesis, journal)
        teachers = teachers_of(synthesis, budget)
        asker = Asker(journal, budget, teachers)
        try:
            return await asyncio.gather(*(asker.ask(r) for r in requests), return_exceptions=True)
        finally:
            await asker.drain()
            for teacher in set(teachers.values()):
                await teacher.close()
            journal.close()

    return asyncio.run(main())
