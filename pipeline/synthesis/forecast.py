"""What `generate` will ask for, before it asks: requests, tokens, cost and time; `make plan` prints it.

The method runs on the journal as `generate` would, without a teacher: what it asks for first and does not find are real
prompts. Before the first reply, their tokens are estimated from characters and every draft is taken to be kept; once
there are replies, rows an item, requests an item and tokens are those of the journal.

    rows to make / rows an item = items;  items x requests an item = requests;  requests x tokens a request = tokens
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.config.synthesis import Asked, Synthesis
from pipeline.run.errors import UserError
from pipeline.synthesis import receipts
from pipeline.synthesis.asker import Asker
from pipeline.synthesis.filters import DraftFilters
from pipeline.synthesis.generation import Generation, Method
from pipeline.synthesis.journal import Journal
from pipeline.synthesis.receipts import Receipt
from pipeline.synthesis.request import Reply, Request
from pipeline.synthesis.spend import Budget, cost_of, most_cost
from pipeline.synthesis.teachers import asked_of, parallel_of

# Characters of a token: of English; of Korean and other scripts. On data/seed_tasks.*.jsonl the tokenizers of SmolLM2
# and LLaMA, which know no Korean, need 1.09 and 1.17 times as many tokens for English, 2.6 and 2.0 times for Korean.
ASCII, OTHER = 4.0, 1.0
AROUND = 4  # tokens that a message takes besides its text
FORM = 1.2  # what JSON and labels add to the texts of a reply
FEWEST = 4  # finished items from which on the journal is taken for what comes


@dataclass(frozen=True)
class Forecast:
    """What is to come, and what is there.

    Attributes:
        replies, rows: in the journal, and kept of them. items: to be asked for. requests: of them, all phases.
        prompt: tokens of the prompts. completion: of the replies, None where nothing tells; most_completion: at most.
        cost, most_cost: in the price's currency, None where it is not known.
        reserved: the most that requests in flight reserve at once, in the unit of the budget.
        seconds: None where no reply has told how long one takes. is_measured: from the journal.
        possible: rows there will be, where there are too few items for those that are wanted; None: enough.
    """

    replies: int
    rows: int
    items: int
    requests: int
    prompt: int
    completion: int | None
    most_completion: int
    cost: float | None
    most_cost: float | None
    reserved: float
    seconds: float | None
    is_measured: bool
    possible: int | None = None


class Watcher(Asker):
    """Answers from the journal and notes what was asked: `answered`, and what the journal lacks: `missing`."""

    def __init__(self, journal: Journal, budget: Budget) -> None:
        super().__init__(journal, budget, {})
        self.answered: dict[str, Request] = {}
        self.missing: dict[str, Request] = {}

    async def ask(self, request: Request) -> Reply:
        there = request.key in self.journal
        (self.answered if there else self.missing)[request.key] = request
        return await super().ask(request)


def forecast(settings: Synthesis, maker: Method, journal: Journal) -> Forecast:
    """Runs the method on the journal and reckons what is missing.

    Raises:
        UserError: seeds or sources cannot be read.
    """
    watcher = Watcher(journal, Budget(settings, journal))
    run = Generation(maker, DraftFilters(settings), watcher, settings.rows, parallel_of(settings.teacher))
    with contextlib.suppress(UserError):  # the replies so far give too few rows; the result has what there is
        asyncio.run(run.run())
    result, received = run.result, receipts.read(journal.path)
    measured = result.items >= FEWEST and bool(result.rows)
    missing_rows = max(0, settings.rows - len(result.rows))
    rows_an_item = len(result.rows) / result.items if measured else float(_rows_an_item(settings, maker))
    items = math.ceil(missing_rows / rows_an_item) if missing_rows else 0
    possible = None
    if maker.items is not None and items > maker.items - result.items:
        items = max(0, maker.items - result.items)
        possible = len(result.rows) + math.floor(items * rows_an_item)
    first = 1 + rows_an_item * _requests_a_row(settings)
    an_item = len(watcher.answered) / result.items if measured else first
    requests = math.ceil(items * an_item)
    told = [received[key] for key in watcher.answered if key in received]
    size = _Sizes.of(settings, maker, list(watcher.missing.values()), list(watcher.answered.values()), told)
    return _reckoned(settings, size, Forecast(
        len(journal), len(result.rows), items, requests, 0, None, 0, None, None,
        _reserved(settings, [*watcher.missing.values(), *watcher.answered.values()], requests),
        _seconds(told, requests, settings.teacher), measured, possible,
    ))  # fmt: skip


@dataclass(frozen=True)
class _Sizes:
    """Tokens of one request: prompt, reply (None where nothing tells), and the longest reply."""

    prompt: float
    completion: float | None
    most: float

    @classmethod
    def of(
        cls, settings: Synthesis, maker: Method, missing: Sequence[Request], answered: Sequence[Request],
        told: Sequence[Receipt],
    ) -> _Sizes:  # fmt: skip
        most = statistics.fmean([r.max_tokens for r in (*missing, *answered)] or [settings.teacher.max_tokens])
        if told:
            return cls(statistics.fmean(r.prompt for r in told), statistics.fmean(r.completion for r in told), most)
        prompt = statistics.fmean([_prompt_tokens(request) for request in missing] or [0.0])
        return cls(prompt, _reply_tokens(maker), most)


def _reckoned(settings: Synthesis, size: _Sizes, planned: Forecast) -> Forecast:
    """With tokens and cost of all requests to come; a judge of its own costs what the teacher does, or more or less."""
    n, price = planned.requests, settings.teacher.price
    prompt, most = round(n * size.prompt), round(n * size.most)
    completion = None if size.completion is None else round(n * size.completion)
    return replace(
        planned, prompt=prompt, completion=completion, most_completion=most,
        cost=None if completion is None else cost_of(price, prompt, completion), most_cost=cost_of(price, prompt, most),
    )  # fmt: skip


def estimated_tokens(text: str) -> float:
    """Tokens of a text by its characters: a rough guess for other languages than English."""
    ascii_only = len(text.encode("ascii", "ignore"))
    return ascii_only / ASCII + (len(text) - ascii_only) / OTHER


def _prompt_tokens(request: Request) -> float:
    return sum(estimated_tokens(text) + AROUND for _, text in request.messages)


def _reply_tokens(maker: Method) -> float | None:
    """Tokens of a reply with as many rows as it may have, each as long as a seed; None without seeds."""
    seeds = getattr(maker, "seeds", ())
    if not seeds:
        return None
    texts = (f"{seed.instruction}{seed.input}{seed.output}" for seed in seeds)
    return FORM * maker.rows_per_item * statistics.fmean(map(estimated_tokens, texts))


def _rows_an_item(settings: Synthesis, maker: Method) -> int:
    """At best: rows of an item, and those that each is evolved into."""
    return maker.rows_per_item * (1 + settings.evolve.rounds)


def _requests_a_row(settings: Synthesis) -> float:
    """Requests of the second phase for a row: an answer, a rating, and for each evolved row its instruction and its
    output."""
    answers = settings.method == "questions" or (settings.method == "translate" and settings.rewrite)
    rounds = settings.evolve.rounds
    return (float(answers) + 2 * rounds) / (1 + rounds) + bool(settings.judge.bar)


def _reserved(settings: Synthesis, requests: Iterable[Request], count: int) -> float:
    """The most that requests in flight reserve at once, in tokens or in the budget's money."""
    money = settings.budget.partition(" ")[2] not in ("", "tokens")
    prices = {role: asked_of(settings, role).price for role in ("teacher", "judge")}
    each = (most_cost(prices[r.role], r) if money else float(r.most_tokens()) for r in requests)
    return max(each, default=0.0) * min(parallel_of(settings.teacher), max(count, 0))


def _seconds(told: Sequence[Receipt], requests: int, asked: Asked) -> float | None:
    """By the time that replies took; None before the first, and for batch files, which take what they take."""
    seconds = [r.seconds for r in told if r.seconds]
    if not seconds or asked.kind == "batch":
        return None
    return statistics.fmean(seconds) * requests / min(asked.parallel, max(requests, 1))
