"""What a planned run costs on several cards, as lines of `make plan`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.progress import readable_time
from pipeline.training import cost, duration, sharding
from pipeline.training.cost import WORTH, Card, Cost, Work
from pipeline.training.plan import Plan

SHARDED = 1.65  # measured by predicted time of a step that trains all weights (docs/scaling.md, 2e7c259)


def lines(config: Config, planned: Plan, options: Mapping[str, str]) -> list[str]:
    """Time, efficiency and price; none where they are not asked for, or the rows are not known.

    Args:
        options: of the command: gpus, card, price, rate, link.

    Raises:
        UserError: an option is no number, or names no card that is known.
    """
    if not options or not planned.rows or not planned.tokens or not planned.steps or not planned.trained:
        return []
    given = {name.upper(): value for name, value in options.items()}
    count = int(number_of(given.get("GPUS", "1"), "GPUS", whole=True))
    card = cost.card_of(given.get("CARD", "h200"))
    price, link = (number_of(given[name], name) if name in given else 0.0 for name in ("PRICE", "LINK"))
    work = work_of(config, planned, sharding.planned_way(config, planned, count, card) == "full")
    if "RATE" in given:
        rate, source = number_of(given["RATE"], "RATE"), "from RATE, tokens a second of one card"
    else:
        rate = cost.rate_of(card, work)
        source = (
            f"from {rate:,.0f} tokens/s of one {card.name}: a 7B LoRA on an H200, by peak speed and operations; "
            "RATE= takes your own"
        )
    if not planned.exact:
        source += "; as if every row had the most tokens"
    return [
        *_shown(work, count, card, rate, source, price, link),
        *sharding.lines(config, planned, count, card, link),
    ]


def work_of(config: Config, planned: Plan, is_sharded: bool) -> Work:
    """A step of a plan whose rows and tokens are known.

    Gradients of weights that are sharded themselves are among the bytes that a pass gathers and reduces.
    """
    assert planned.rows
    assert planned.tokens
    assert planned.steps
    dtype = "fp8" if config.model.quantize == "fp8" else "bf16"
    sharded_too = is_sharded and spec_of(config.adapter).name == "full"
    return Work(
        rows=config.train.batch_size,
        tokens=planned.tokens / planned.rows,
        steps=planned.steps,
        operations=duration.operations(config.adapter, planned),
        forward=2.0 * planned.parameters,
        exchanged=0 if sharded_too else planned.trained,
        dtype=dtype,
        gathered=sharding.gathered_bytes(config, planned) if is_sharded else 0.0,
        host=planned.blocks * cost.HOST_MS[dtype] / 1000,
        graphs=config.train.graphs and not is_sharded,
    )


def _shown(work: Work, count: int, card: Card, rate: float, source: str, price: float, link: float) -> list[str]:
    """The prediction.

    Args:
        source: of the rate, and what the tokens are if they were not counted. price: of a card for an hour; 0: not
        known.
    """
    predicted = cost.predict(work, count, card, rate, link)
    hosts = math.ceil(count / cost.HOST)
    seconds = work.steps * predicted.step
    hours = seconds * count / 3600
    paid = f"; {hours * price:,.2f} at PRICE={price:g} each" if price else "; PRICE=2.5 (of one) adds the price"
    few = [f"           {work.rows:,} rows are fewer than {count:,} cards: such a run is refused"]
    return [
        f"cards      {count} x {card.name} in {hosts} host{'s' if hosts > 1 else ''}: {_span(predicted.step)} a step, "
        f"{_span(predicted.one)} on one; efficiency {predicted.efficiency:.0%}",
        *(few if work.rows < count else []),
        *(_parts(work, predicted) if count > 1 else []),
        f"           {readable_time(seconds)} of training, {hours:,.1f} card-hours{paid}",
        f"           {source}",
        *(_worth(work, count, card, rate, link) if count > 1 else []),
    ]


def _worth(work: Work, count: int, card: Card, rate: float, link: float) -> list[str]:
    """From which size of a step on so many cards pay."""
    enough = cost.rows_worth(work, count, card, rate, link)
    least = f"from {enough:,} rows a step on" if enough else "with no size of step"
    return [f"           {count} cards keep {WORTH:.0%} of their time {least}"]


def _parts(work: Work, predicted: Cost) -> list[str]:
    """Of a step on several cards: what it consists of, and for sharded weights why it takes that long."""
    kind = "kernel by kernel" if predicted.host else "as CUDA graphs"
    sent = f"exchange of {4 * work.exchanged / 1e6:,.0f} MB {_span(predicted.exchange)}; " if work.exchanged else ""
    parts = [
        f"           passes {kind} {_span(predicted.compute)}, one rank with {predicted.imbalance:.1%} more tokens "
        f"than the mean; {sent}not hidden by passes {_span(predicted.exposed)}"
    ]
    if work.gathered:
        parts.append(
            f"           weights are sharded: passes take at least the gathering, {_span(predicted.gather)}, and the "
            f"host's time to start kernels, {_span(predicted.host)}"
        )
    if work.gathered and not work.exchanged:
        parts.append(
            f"           take it as the best case: all weights of 7B, sharded over a group of one H200, took "
            f"{SHARDED:g} times the prediction (docs/scaling.md)"
        )
    return parts


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
