"""What a step costs on many cards: time and efficiency, from the speed of one card.

    step of N cards   = passes * pass + what of the exchange is not hidden
    passes            tokens of a rank / 16,384, rounded up
    pass              (its tokens * (1 + imbalance) + FIXED) / speed; of sharded weights the longest of that, of
                      gathering their bytes, and of the host's time to start the kernels
    graphs            a pass for which the host needs longer than 0.8 of that is recorded as a CUDA graph
    exchange          2 (N - 1) / N * bytes of gradients / bandwidth, as in a ring, and a latency for each message
    hidden            what goes out while the last backward pass computes (`gradient_exchange.py`); with a graph
                      nothing, since all gradients are there when it ends
    efficiency        step of one card / (N * step of N cards)

A pass of n units takes (n + n_half) / speed, where n_half units run at half the speed: Hockney and Jesshope 1981,
"Parallel Computers". `FIXED` is n_half in tokens, fitted on two points of one H200 for each type, the
small one as a graph. Passes of sharded weights are never recorded.

The volume of a ring all-reduce: Patarasu and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
workstations". Ring or not, no algorithm without help of the switch sends less. Every other number has its source beside
it. `scripts/benchmarks/bench_scaling.py` prints what it measures beside what this predicts; `cost_plan.py` prints the
prediction for a config.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest
from pipeline.training.gradient_exchange import BUCKET
from pipeline.training.launch_time import SHARE as BOUND


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
SMALL_MESSAGES = 2  # of a step besides its gradients: whether a rank was told to stop, and the loss
# Tokens of the pass whose speed was measured. A run takes larger ones if the memory is there (`memory.MAX_TOKENS`);
# their speed was not measured, so a rank with more tokens counts as several passes.
PASS = 16_384

# One H200, LoRA on 7B, a step of one pass, optimizer included (docs/bench.json: 2e7c259, 2026-12-01): tokens of the
# pass and milliseconds of "shared" and "fp8", and of the cases of 32 rows as graphs.
POINTS = {
    "bf16": ((16_384, 586.4), (4_060, 156.2)),
    "fp8": ((16_384, 395.1), (4_060, 112.3)),
}
# Milliseconds of a pass without graphs, for each of 32 blocks, that waits for the host: the cases of 32 rows without
# graphs at ba3bb94. Hosts differ: four ranks took 4.9 and 6.1 on 2026-11-29.
HOST_MS = {"bf16": 188.9 / 32, "fp8": 228.1 / 32}
# Tokens a second of the large pass, in the same file, and the operations of such a token, of which steps of another
# base need more or fewer.
MEASURED = {"bf16": 27_998.0, "fp8": 41_647.0}
MEASURED_ON, MEASURED_OPERATIONS = CARDS["h200"], 4 * 6.74e9
# By rows of a rank: by how much the rank with the most tokens exceeds the mean, in Alpaca, mean over the steps of an
# epoch (scripts/benchmarks/imbalance.py, docs/scaling.md), and over the numbers of ranks of which that was counted.
IMBALANCE = {128: 0.0001, 64: 0.0006, 32: 0.003, 16: 0.01, 8: 0.023, 4: 0.2, 2: 1.3, 1: 3.5}
WORTH = 0.8  # efficiency from which more cards pay, a convention
MOST_ROWS = 4096  # of a rank that `rows_worth` tries


def fixed_tokens(large: tuple[int, float], small: tuple[int, float]) -> float:
    """The fixed time of a pass, as the number of tokens that take as long; from two passes, (tokens, time) of each."""
    per_token = (large[1] - small[1]) / (large[0] - small[0])
    return large[1] / per_token - large[0]


# In tokens and not in seconds, so that it follows the speed of cards and bases: what a small pass loses are tiles that
# do not fill the card, and weights that are read once in each pass. SmolLM2-135M, with nearly as many kernels, loses
# half a millisecond where 7B loses 12.
FIXED = {dtype: fixed_tokens(*points) for dtype, points in POINTS.items()}


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        rows: of a step. tokens: of a row, on average. steps: of the run.
        operations: of a token, forward and backward. forward: of them, in the forward pass.
        exchanged: numbers whose gradients are summed over all ranks once a step, in float32.
        dtype: `bf16` or `fp8`.
        gathered: bytes that a pass of sharded weights gathers and reduces, over all ranks together
            (`sharding.gathered_bytes`); 0 where every rank holds the base.
        host: seconds that Python takes to start the kernels of a pass. graphs: whether passes that would wait for that
            are recorded.
    """

    rows: int
    tokens: float
    steps: int
    operations: float
    forward: float
    exchanged: int
    dtype: str
    gathered: float = 0.0
    host: float = 0.0
    graphs: bool = True


@dataclass(frozen=True)
class Cost:
    """Seconds of a step: on one card, on all, and the parts of the latter.

    Attributes:
        compute: of the slowest rank's passes; they wait for the host and for gathered weights where those take longer.
        gather: of the gathering in all passes, as if nothing hid it. host: to start all kernels; 0 with graphs.
        exchange: of the gradients. exposed: of that and of the small messages, what no pass hides.
        imbalance: by how much the slowest rank's tokens exceed the mean. efficiency: from 0 to 1.
    """

    one: float
    step: float
    compute: float
    gather: float
    host: float
    exchange: float
    exposed: float
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
    """Tokens a second of one card in passes of `PASS` tokens, from what was measured on another one: by the peak speed,
    and by the operations.

    Raises:
        UserError: the card has no fp8.
    """
    peak, reference = (card.fp8, MEASURED_ON.fp8) if work.dtype == "fp8" else (card.bf16, MEASURED_ON.bf16)
    if not peak:
        raise UserError(f"the {card.name} has no fp8", "CARD", "set model.quantize=none or nf4, or another card")
    return MEASURED[work.dtype] * peak / reference * MEASURED_OPERATIONS / work.operations


def predict(work: Work, count: int, card: Card, rate: float, link: float = 0.0, overlapped: bool = True) -> Cost:
    """A step on `count` cards.

    Args:
        rate: tokens a second of one card in passes of `PASS` tokens.
        link: measured bandwidth of an all-reduce in GB/s (bytes * 2 (N - 1) / N over seconds, "bus bandwidth"); 0: from
            the card's data sheet.
        overlapped: gradients go out during the last pass; else in one message after it.
    """
    one, _ = _passes(work, 1, rate)
    if count == 1:
        return Cost(one, one, one, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    computing, passes = _passes(work, count, rate)
    gather = passes * (count - 1) / count * work.gathered / (bandwidth_of(count, card, link) * 1e9)
    is_recorded = work.graphs and work.host > BOUND * computing / passes
    host = 0.0 if is_recorded else passes * work.host
    compute = max(computing, gather, host)
    exchange = exchange_seconds(work.exchanged, count, card, link, overlapped)
    exposed = exchange
    if overlapped and not is_recorded and not work.gathered:  # gathering takes the link for itself
        backward = computing / passes * (1 - work.forward / work.operations)
        exposed = exposed_seconds(exchange, work.exchanged, backward)
    exposed += SMALL_MESSAGES * _latency(count)
    step = compute + exposed
    share = imbalance_of(work.rows / count)
    return Cost(one, step, compute, gather, host, exchange, exposed, share, one / (count * step))


def _passes(work: Work, count: int, rate: float) -> tuple[float, int]:
    """Seconds that the rank with the most tokens computes in a step, and its passes."""
    tokens, fixed = work.rows * work.tokens / count, FIXED[work.dtype]
    passes = max(1, math.ceil(tokens / PASS - 1e-9))
    share = imbalance_of(work.rows / count) if count > 1 else 0.0
    return (tokens * (1 + share) + passes * fixed) * PASS / (rate * (PASS + fixed)), passes


def exchange_seconds(numbers: int, count: int, card: Card, link: float = 0.0, overlapped: bool = True) -> float:
    """Seconds of the messages with a step's gradients, one after the other. numbers: of gradients, in float32."""
    if count == 1 or not numbers:
        return 0.0
    messages = math.ceil(numbers / BUCKET) if overlapped else 1
    return 2 * (count - 1) / count * 4 * numbers / (bandwidth_of(count, card, link) * 1e9) + messages * _latency(count)


def exposed_seconds(exchange: float, numbers: int, backward: float) -> float:
    """What of the exchange comes after the last backward pass, of so many seconds.

    The k-th of n messages can go out after k / n of the backward pass: the gradients of all blocks take equally long.
    So the last one always comes afterwards, and all others if the link is slower than the card.
    """
    if not numbers:
        return 0.0
    messages = math.ceil(numbers / BUCKET)
    return max(exchange / messages, exchange - backward * (1 - 1 / messages))


def _latency(count: int) -> float:
    """Seconds of a message."""
    return LATENCY_MS / 1000 * (1 + math.log2(math.ceil(count / HOST)))


def bandwidth_of(count: int, card: Card, link: float = 0.0) -> float:
    """GB/s of a ring of so many cards. link: as in `predict`."""
    inside = card.link * LINK_SHARE
    between = HOST * card.network * LINK_SHARE  # a ring leaves a host once, over all of its adapters
    return link or (inside if count <= HOST else min(inside, between))


def imbalance_of(rows: float) -> float:
    """Of ranks with so many rows: between two that were measured along a straight line of their logarithms."""
    rows = min(max(rows, min(IMBALANCE)), max(IMBALANCE))
    below = max(count for count in IMBALANCE if count <= rows)
    above = min(count for count in IMBALANCE if count >= rows)
    if below == above:
        return IMBALANCE[below]
    part = math.log(rows / below) / math.log(above / below)
    return IMBALANCE[below] * (IMBALANCE[above] / IMBALANCE[below]) ** part


def rows_worth(work: Work, count: int, card: Card, rate: float, link: float = 0.0) -> int | None:
    """The fewest rows a step, a multiple of the cards, of which this many cards keep `WORTH`; None if none do."""
    for rows in range(count, count * MOST_ROWS + 1, count):
        if predict(replace(work, rows=rows), count, card, rate, link).efficiency >= WORTH:
            return rows
    return None
