"""What a step costs on many cards: time, efficiency and price, from the speed of one card.

    step of N cards   = max(work / N, launches) * (1 + imbalance) + exchange
    work              tokens of a step / tokens a second of one card
    launches          Python starts the kernels of one pass, however few rows it has: `LAUNCH_MS` for each block
    exchange          2 (N - 1) / N * bytes of gradients / bandwidth, as in a ring, and a latency for each message
    efficiency        work / (N * step of N cards)

The volume of a ring all-reduce: Patarasu and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
workstations". Ring or not, no algorithm without help of the switch sends less. Every other number has its source beside
it. `scripts/benchmarks/bench_scaling.py` prints what it measures beside what this predicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest
from pipeline.run.progress import readable_time


@dataclass(frozen=True)
class Card:
    """Speeds from NVIDIA's data sheets. bf16, fp8: dense products, in TFLOP/s; fp8 is 0 without. link: to the other
    cards of a host, in GB/s and one direction. network: of a card's share of the host's network, likewise. memory: in
    GB, as in its name."""

    name: str
    bf16: float
    fp8: float
    link: float
    network: float
    memory: float


# network: DGX A100 has eight 200 Gb/s adapters for eight cards, DGX H100, H200 and B200 have eight of 400 Gb/s. Of an
# L40S it is an assumption: 100 Gb/s for eight cards.
CARDS = {
    "a100": Card("A100", 312, 0, 300, 25, 80),
    "h100": Card("H100", 989, 1979, 450, 50, 80),
    "h200": Card("H200", 989, 1979, 450, 50, 141),
    "b200": Card("B200", 2250, 4500, 900, 50, 180),
    "l40s": Card("L40S", 362, 733, 32, 1.6, 48),
}
HOST = 8  # cards of a host
# Share of a link's speed that large messages reach, a convention of planning and not measured here; `link` of
# `predict` replaces link and share by a measured bandwidth.
LINK_SHARE = 0.8
LATENCY_MS = 0.05  # of one message among the cards of a host, by hand; between hosts it grows with log2 of their number
BUCKET_NUMBERS = 1 << 24  # of gradients in a message, as if all were sent after the last pass (gradient_exchange.py)
SMALL_MESSAGES = 2  # of a step besides its gradients: whether a rank was told to stop, and the loss
# Tokens a second of one H200: LoRA on 7B at 128 rows of Alpaca a step, measured on 2026-11-29 (docs/scaling.md), and
# the operations of such a token, of which steps of another base need more or fewer.
MEASURED = {"bf16": 28_151.0, "fp8": 45_045.0}
MEASURED_ON, MEASURED_OPERATIONS = CARDS["h200"], 4 * 6.74e9
# Milliseconds a block: four cards took 158 and 196 ms for 32 rows of 32 blocks (the same measurement). In bf16 the card
# was busy for most of it, so that is an upper bound.
LAUNCH_MS = {"bf16": 4.9, "fp8": 6.1}
# By rows of a rank: by how much the rank with the most tokens exceeds the mean, in Alpaca, mean over the steps of an
# epoch (scripts/benchmarks/imbalance.py, docs/scaling.md).
IMBALANCE = {256: 0.0, 128: 0.0001, 64: 0.0005, 32: 0.002, 16: 0.008, 8: 0.021}
WORTH = 0.8  # efficiency from which more cards pay, a convention


@dataclass(frozen=True)
class Work:
    """What is trained. rows: of a step. tokens: of a row, on average. steps: of the run. operations: of a token.
    trained: numbers whose gradients are exchanged, in float32. blocks: whose kernels Python starts; 0 with CUDA graphs.
    dtype: `bf16` or `fp8`."""

    rows: int
    tokens: float
    steps: int
    operations: float
    trained: int
    blocks: int
    dtype: str


@dataclass(frozen=True)
class Cost:
    """Seconds of a step: on one card, on all, and the parts of the latter. efficiency: from 0 to 1."""

    one: float
    step: float
    compute: float
    exchange: float
    imbalance: float
    efficiency: float


def card_of(name: str) -> Card:
    """Raises:
    UserError: it is none that is known.
    """
    if name.lower() not in CARDS:
        fix = nearest(name.lower(), CARDS, f"there is {', '.join(CARDS)}")
        raise UserError(f"no such card: {name!r}", "CARD", fix)
    return CARDS[name.lower()]


def rate_of(card: Card, work: Work) -> float:
    """Tokens a second of one card, from what was measured on another one: by the peak speed, and by the operations.

    Raises:
        UserError: the card has no fp8.
    """
    peak, reference = (card.fp8, MEASURED_ON.fp8) if work.dtype == "fp8" else (card.bf16, MEASURED_ON.bf16)
    if not peak:
        raise UserError(f"the {card.name} has no fp8", "CARD", "set model.quantize=none or nf4, or another card")
    return MEASURED[work.dtype] * peak / reference * MEASURED_OPERATIONS / work.operations


def predict(work: Work, count: int, card: Card, rate: float, link: float = 0.0) -> Cost:
    """A step on `count` cards.

    Args:
        rate: tokens a second of one card. link: measured bandwidth of an all-reduce in GB/s (bytes * 2 (N - 1) / N over
            seconds, "bus bandwidth"); 0: from the card's data sheet.
    """
    one = work.rows * work.tokens / rate
    launches = work.blocks * LAUNCH_MS[work.dtype] / 1000
    share = 0.0 if count == 1 else imbalance_of(work.rows / count)
    compute = max(one / count, launches if count > 1 else 0.0)
    exchange = exchange_seconds(4 * work.trained, count, card, link)
    step = compute * (1 + share) + exchange if count > 1 else one
    return Cost(one, step, compute, exchange, share, one / (count * step))


def exchange_seconds(size: float, count: int, card: Card, link: float = 0.0) -> float:
    """Seconds of the messages of a step. size: bytes of the gradients."""
    if count == 1:
        return 0.0
    hosts, bandwidth = math.ceil(count / HOST), bandwidth_of(count, card, link)
    messages = math.ceil(size / 4 / BUCKET_NUMBERS) + SMALL_MESSAGES
    latency = LATENCY_MS / 1000 * (1 + math.log2(hosts))
    return 2 * (count - 1) / count * size / (bandwidth * 1e9) + messages * latency


def bandwidth_of(count: int, card: Card, link: float = 0.0) -> float:
    """GB/s of a ring of so many cards. link: as in `predict`."""
    inside = card.link * LINK_SHARE
    between = HOST * card.network * LINK_SHARE  # a ring leaves a host once, over all of its adapters
    return link or (inside if count <= HOST else min(inside, between))


def imbalance_of(rows: float) -> float:
    """Of ranks with so many rows: that of the nearest number below which was measured; it falls with the rows."""
    fewer = [count for count in IMBALANCE if count <= rows]
    return IMBALANCE[max(fewer)] if fewer else IMBALANCE[min(IMBALANCE)] * min(IMBALANCE) / max(1.0, rows)


def rows_worth(work: Work, count: int, card: Card, rate: float, link: float = 0.0) -> int | None:
    """The fewest rows a step, a power of two times the cards, of which this many cards keep `WORTH`; None if none
    do."""
    for doubling in range(16):
        rows = count << doubling
        if predict(_with_rows(work, rows), count, card, rate, link).efficiency >= WORTH:
            return rows
    return None


def _with_rows(work: Work, rows: int) -> Work:
    return Work(rows, work.tokens, work.steps, work.operations, work.trained, work.blocks, work.dtype)


def lines(work: Work, count: int, card: Card, rate: float, source: str, price: float, link: float = 0.0) -> list[str]:
    """The prediction as lines of `make plan`.

    Args:
        source: of the rate, and what the tokens are if they were not counted. price: of a card for an hour; 0: not
        known.
    """
    cost = predict(work, count, card, rate, link)
    hosts = math.ceil(count / HOST)
    seconds = work.steps * cost.step
    hours = seconds * count / 3600
    paid = f"; {hours * price:,.2f} at PRICE={price:g} each" if price else "; PRICE=2.5 (of one) adds the price"
    enough = rows_worth(work, count, card, rate, link)
    least = f"from {enough:,} rows a step on" if enough else "with no size of step"
    return [
        f"cards      {count} x {card.name} in {hosts} host{'s' if hosts > 1 else ''}: {_span(cost.step)} a step, "
        f"{_span(cost.one)} on one; efficiency {cost.efficiency:.0%}",
        f"           computing {_span(cost.compute)}, waiting for the slowest {cost.imbalance:.1%} of it, exchange of "
        f"{4 * work.trained / 1e6:,.0f} MB {_span(cost.exchange)}",
        f"           {readable_time(seconds)} of training, {hours:,.1f} card-hours{paid}",
        f"           {source}",
        f"           {count} cards keep {WORTH:.0%} of their time {least}",
    ]


def _span(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def number_of(text: str, place: str, whole: bool = False) -> float:
    """A number above zero that a user gave.

    Raises:
        UserError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9 or (whole and value != int(value)):
        raise UserError(f"{text!r} is no {'whole ' if whole else ''}number above 0", place, f"such as {place}=2")
    return value


def names() -> Sequence[str]:
    """Of the cards that are known."""
    return tuple(CARDS)
