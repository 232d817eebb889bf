"""Runs a method's work: many requests at once, results in order, until there are enough rows.

    item 0, 1, 2 ...   draft phase, many at once        finish phase, many at once
                       Work -> drafts ----in order----> filters -> Work -> rows ----in order----> rows, rejected
                                                        (novelty against everything that passed)

Drafts are filtered in the order of their items and rows are counted in that order, so the result depends on the replies
and not on the order in which they come.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.run.errors import UserError
from pipeline.synthesis.asker import Asker, GaveUp, NotJournaled
from pipeline.synthesis.request import Draft, Work, drafts_of
from pipeline.synthesis.spend import BudgetReached

MISSING = 500  # items in a row that are not in the journal, after which there are none behind them
PATIENCE = 20  # items in a row without a kept row, and
DRAFTS = 60  # drafts, after which an endless method stops: more money would not help
LEAST_YIELD = 0.05  # rows of an item that are reckoned with, at least
WINDOW = 4  # items that may be ahead of the oldest unfinished one, for each request that may be in flight


class Method(Protocol):
    """How rows are made. Items are numbered from 0; the work of an item depends on its number alone.

    Attributes:
        items: how many there are; None: without end.
        rows_per_item: rows that an item gives at best.
    """

    items: int | None
    rows_per_item: int

    def draft(self, number: int) -> Work:
        """The first phase of an item: drafts to be filtered."""

    def finish(self, draft: Draft) -> Work:
        """The second phase, of a draft that passed the filters: rows."""


class Filters(Protocol):
    """Decides on drafts, in order; remembers those that pass."""

    def draft(self, draft: Draft) -> Draft:
        """The draft, rejected where a filter says so."""

    def row(self, row: Draft) -> Draft:
        """A finished row, cleaned, or rejected where a filter says so."""


@dataclass
class Result:
    """What was made.

    Attributes:
        rows, rejected: in order. drafts: their number together. kept_after: number of rows after each draft.
        ended: why it ended: rows, items, budget, journal (nothing more is in it), or yield (a replay in which the last
            replies gave no row).
        items: whose first phase was finished.
        unfinished: items and drafts without a result, since a request failed, was not sent or is not in the journal;
            lost: those of them whose request failed after all tries.
    """

    rows: list[Draft] = field(default_factory=list)
    rejected: list[Draft] = field(default_factory=list)
    kept_after: list[int] = field(default_factory=list)
    drafts: int = 0
    ended: str = "items"
    items: int = 0
    unfinished: int = 0
    lost: int = 0

    def counts(self) -> Counter[str]:
        """Rejected drafts and rows by rule."""
        return Counter(draft.rejected[0] for draft in self.rejected if draft.rejected)


@dataclass(frozen=True)
class _Finishing:
    """A draft in the second phase, or one that was rejected before it. items: 1 at the end of an item, with no rows."""

    rows: list[Draft]
    task: asyncio.Task[list[Draft] | None] | None
    items: int = 0


class Generation:
    """One run of a method.

    Args:
        rows: how many are wanted. parallel: most requests in flight.
        progress: called with the result so far, after each item.
    """

    def __init__(
        self, method: Method, filters: Filters, asker: Asker, rows: int, parallel: int,
        progress: Callable[[Result], None] = lambda result: None,
    ) -> None:  # fmt: skip
        self.method, self.filters, self.asker = method, filters, asker
        self.wanted, self.parallel, self.progress = rows, parallel, progress
        self.result = Result()
        self._started, self._barren = 0, (0, 0)
        self._drafting: deque[asyncio.Task[list[Draft] | None]] = deque()
        self._finishing: deque[_Finishing] = deque()
        self._out_of_replies, self._missing = "", 0
        self._failure: asyncio.Future[None] | None = None
        self._pending = 0  # drafts in the second phase
        self._item_kept = False  # whether the item whose rows are counted gave one

    async def run(self) -> Result:
        """Makes the rows.

        Raises:
            UserError: from a teacher; or an endless method gives no rows any more, with the reasons.
        """
        self._failure = asyncio.get_running_loop().create_future()
        try:
            while len(self.result.rows) < self.wanted:
                while self._may_start():
                    self._drafting.append(asyncio.create_task(self._drive(self.method.draft(self._started))))
                    self._started += 1
                if not self._drafting and not self._finishing:
                    break
                await self._next()
            self.result.ended = "rows" if len(self.result.rows) >= self.wanted else self._out_of_replies or "items"
            return self.result
        finally:
            self.asker.closed = True
            if not self._failure.cancel():
                self._failure.exception()  # seen, also where the rows were complete
            tasks = [*self._drafting, *(entry.task for entry in self._finishing if entry.task)]
            try:
                await self.asker.drain()
            finally:  # also when it is cancelled a second time
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _may_start(self) -> bool:
        """Whether another item is needed, and may be in flight."""
        if self._missing >= MISSING or (self.method.items is not None and self._started >= self.method.items):
            return False
        ahead = len(self._drafting)
        if ahead + self._pending >= WINDOW * self.parallel:
            return False
        # Drafts in the second phase count as rows, and before the first results an item counts as a full one: each
        # item more than needed would be paid for.
        filtered = self._started - ahead
        an_item = (len(self.result.rows) + self._pending + self.method.rows_per_item) / (filtered + 1)
        coming = ahead * max(an_item, LEAST_YIELD) + self._pending
        return round(len(self.result.rows) + coming, 6) < self.wanted

    async def _next(self) -> None:
        """Waits for the oldest unfinished work, and takes what is done in order."""
        assert self._failure is not None
        oldest: list[asyncio.Future[Any]] = [self._drafting[0]] if self._drafting else []
        if self._finishing and (task := self._finishing[0].task):
            oldest.append(task)
        if oldest:
            await asyncio.wait([*oldest, self._failure], return_when=asyncio.FIRST_COMPLETED)
        if self._failure.done():
            self._failure.result()
        while self._drafting and self._drafting[0].done():
            self._filter(self._drafting.popleft().result())
        while self._finishing and len(self.result.rows) < self.wanted:
            entry = self._finishing[0]
            if entry.task is not None and not entry.task.done():
                break
            self._finishing.popleft()
            self._pending -= entry.task is not None
            self._take(entry.rows if entry.task is None else entry.task.result(), entry.items)

    def _filter(self, drafts: list[Draft] | None) -> None:
        """Filters the drafts of the next item; starts the second phase of those that pass."""
        if drafts is None:
            self.result.unfinished += 1
            return
        self.result.items += 1
        for draft in drafts:
            decided = draft if draft.rejected else self.filters.draft(draft)
            task = None if decided.rejected else asyncio.create_task(self._drive(self.method.finish(decided)))
            self._pending += task is not None
            self._finishing.append(_Finishing([decided], task))
        self._finishing.append(_Finishing([], None, 1))

    def _take(self, rows: list[Draft] | None, items: int) -> None:
        """Counts rows of the next draft, in order; items: 1 where an item ends."""
        if rows is None:
            self.result.unfinished += 1
            return
        self._barren = (self._barren[0] + (items and not self._item_kept), self._barren[1] + len(rows))
        self._item_kept = self._item_kept and not items
        for row in rows:
            if len(self.result.rows) >= self.wanted:
                break
            self.result.drafts += 1
            decided = row if row.rejected else self.filters.row(row)
            if decided.rejected:
                self.result.rejected.append(decided)
            else:
                self.result.rows.append(decided)
                self._barren, self._item_kept = (0, 0), True
            self.result.kept_after.append(len(self.result.rows))
        self.progress(self.result)
        self._check_yield()

    def _check_yield(self) -> None:
        """Decides in order, so that a replay ends as the first run did.

        Raises:
            UserError: an endless method gives no rows any more.
        """
        items, drafts = self._barren
        if self.method.items is not None or items < PATIENCE or drafts < min(DRAFTS, items):
            return
        counts = self.result.counts()
        total = sum(counts.values())
        reasons = ", ".join(f"{rule} {count / total:.0%}" for rule, count in counts.most_common(5))
        raise UserError(
            f"the last {items} requests gave no row; of {total:,} drafts {total:,} were rejected: {reasons}"
            if not self.result.rows else
            f"the last {items} requests gave no row; {len(self.result.rows):,} are kept so far, rejected: {reasons}",
            "synthesis", "look at replies with synthesis.preview=5; take another teacher, more seeds, or lower "
            "synthesis.novelty; to build the rows so far: synthesis.replay=true",
        )  # fmt: skip

    async def _drive(self, work: Work) -> list[Draft] | None:
        """Runs work to its end; None where a reply is not to be had now."""
        try:
            drafts = await drafts_of(work, self.asker.ask)
            self._missing = 0
            return drafts
        except BudgetReached:  # what the journal holds of later items is used all the same, as a replay would
            self._out_of_replies = "budget"
            self.asker.closed = True
        except NotJournaled:
            self._out_of_replies = self._out_of_replies or "journal"
            self._missing += 1
        except GaveUp:
            self.result.lost += 1
        except Exception as error:  # ends the run now, also where older items are still waited for
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)
            raise
        return None
