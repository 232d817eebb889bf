"""`synthesis.preview=5`: a few prompts with their replies, what was parsed, and what each filter says.

Replies are journaled, so the run that follows does not pay for them again; nothing is written to `generated/`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.config.synthesis import Synthesis
from pipeline.run.next_command import command_without
from pipeline.run.progress import say, working
from pipeline.synthesis.asker import Asker, GaveUp
from pipeline.synthesis.filters import DraftFilters
from pipeline.synthesis.generation import Method
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.methods import open_asker
from pipeline.synthesis.request import Draft, Reply, Request, Work, drafts_of
from pipeline.synthesis.spend import BudgetReached, NotJournaled
from pipeline.synthesis.summary import Spent

LONGEST = 4000  # characters of a text that are shown


@dataclass
class Item:
    """What was asked and answered for one item. failure: why there is no further reply."""

    number: int
    exchanges: list[tuple[Request, Reply]] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    rows: list[Draft] = field(default_factory=list)
    failure: str = ""


def preview(settings: Synthesis, maker: Method, journal: Journal) -> None:
    """Asks for the first items, as far as the journal lacks them, and prints them.

    Raises:
        UserError: the teacher cannot be asked.
    """
    before = Spent.of(journal)
    with working("preview: waiting for replies"):
        items = asyncio.run(_ask(settings, maker, journal))
    for item in items:
        for line in _lines(item):
            say(line)
    currency = settings.teacher.price.currency
    rows = sum(len([row for row in item.rows if not row.rejected]) for item in items)
    asked = sum(len(item.exchanges) for item in items)
    say(f"preview: {rows:,} rows of {asked:,} replies; spent now: {Spent.of(journal).since(before).text(currency)}")
    go_on = command_without("generate", "synthesis.preview")
    say(f"preview: nothing was written but the journal, {journal.path}. All rows:\n  {go_on}")


async def _ask(settings: Synthesis, maker: Method, journal: Journal) -> list[Item]:
    count = settings.preview if maker.items is None else min(settings.preview, maker.items)
    items = [Item(number) for number in range(count)]
    places = asyncio.Semaphore(settings.teacher.parallel)
    async with open_asker(settings, journal) as asker:
        try:
            await _all(_draft(item, maker, asker, places) for item in items)
            filters = DraftFilters(settings)
            for item in items:
                item.drafts = [draft if draft.rejected else filters.draft(draft) for draft in item.drafts]
            await _all(_finish(item, maker, asker, places) for item in items)
            for item in items:
                item.rows = [row if row.rejected else filters.row(row) for row in item.rows]
            return items
        finally:
            await asker.drain()


async def _all(work: Iterable[object]) -> None:
    """Runs all; the first error of a teacher ends it when the others have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)  # type: ignore[call-overload]
    for error in results:
        if isinstance(error, BaseException):
            raise error


async def _draft(item: Item, maker: Method, asker: Asker, places: asyncio.Semaphore) -> None:
    async with places:
        item.drafts = await _drive(item, maker.draft(item.number), asker)


async def _finish(item: Item, maker: Method, asker: Asker, places: asyncio.Semaphore) -> None:
    async with places:
        for draft in item.drafts:
            item.rows += [draft] if draft.rejected else await _drive(item, maker.finish(draft), asker)


async def _drive(item: Item, work: Work, asker: Asker) -> list[Draft]:
    """Runs work to its end; empty where a reply is not to be had."""

    async def ask(request: Request) -> Reply:
        reply = await asker.ask(request)
        item.exchanges.append((request, reply))
        return reply

    try:
        return await drafts_of(work, ask)
    except BudgetReached:
        item.failure = "the budget allows no further request"
    except NotJournaled:
        item.failure = "its reply is not in the journal, and nothing is asked now"
    except GaveUp as error:
        item.failure = f"the request failed after all tries: {error}"
    return []


def _lines(item: Item) -> list[str]:
    said = [f"\n=== prompt {item.number + 1}"]
    for request, reply in item.exchanges:
        for role, content in request.messages:
            said.append(f"--- {role} ({request.purpose})\n{_cut(content)}")
        counted = f"{reply.prompt_tokens:,} + {reply.completion_tokens:,} tokens, ended by {reply.finish}"
        said.append(f"--- reply of {reply.model or request.model} ({counted})\n{_cut(reply.failure or reply.text)}")
    said += [f"--- no reply: {item.failure}"] if item.failure else []
    for row in item.rows:
        said.append(_row(row))
    if item.exchanges and not item.rows and not item.failure:
        said.append("--- no row was parsed")
    return said


def _row(row: Draft) -> str:
    """A parsed row and what the filters say of it."""
    verdict = f"REJECTED by {row.rejected[0]}: {row.rejected[1]}" if row.rejected else "kept"
    texts = "\n".join(f"  {name}: {_cut(text)}" for name in ("instruction", "input", "output")
                      if (text := getattr(row, name)))  # fmt: skip
    return f"--- row: {verdict}" + (f"\n{texts}" if texts else "")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"
