"""Prints what `make plan GPUS=N` predicts for several numbers of cards, as Markdown:

    python -m scripts.benchmarks.scaling_table CONFIG --tokens=124.9 [--cards=8,64,512] [--card=h100] [--price=2.5]
        [--rows=128,1024] [--types=bf16,fp8] [KEY=VALUE ...]

CONFIG: its `model.geometry` is used, nothing is loaded. tokens: of a row, on average. price: of a card for an hour.
rows: of a step; the last table says how many each number of cards needs. types: fp8 sets `model.quantize`. The formula
and its sources: `pipeline/training/cost.py`. docs/scaling.md has the output.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.run.errors import UserError
from pipeline.run.progress import readable_time
from pipeline.training import cost, sharding
from pipeline.training.cost import Card, Work
from pipeline.training.cost_plan import number_of, work_of
from pipeline.training.plan import plan
from scripts.benchmarks.bench_call import options_of

DEFAULTS = {
    "tokens": "", "cards": "8,64,512", "card": "h100", "price": "2.5", "rows": "128,1024", "types": "bf16,fp8",
}  # fmt: skip


def steps_table(works: dict[str, Work], counts: list[int], sizes: list[int], card: Card, price: float) -> list[str]:
    """Time, efficiency and price of a step of each size. A run keeps its epochs, so with larger steps it has fewer."""
    lines = [
        "| type | rows a step | cards | rows a card | ms a step | efficiency | the run | card-hours | price |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for dtype, planned in works.items():
        rate = cost.rate_of(card, planned)
        for rows in sizes:
            work = replace(planned, rows=rows, steps=max(1, round(planned.steps * planned.rows / rows)))
            for count in (1, *counts):
                shown = f"| {dtype} | {rows:,} | {count} |"
                if count > rows:
                    lines.append(f"{shown} | refused: fewer rows than cards | | | | |")
                    continue
                now = cost.predict(work, count, card, rate)
                seconds = work.steps * now.step
                hours = seconds * count / 3600
                lines.append(
                    f"{shown} {rows / count:g} | {now.step * 1000:,.1f} | {now.efficiency:.0%} | "
                    f"{readable_time(seconds)} | {hours:,.2f} | {hours * price:,.2f} |"
                )
    return lines


def worth_table(works: dict[str, Work], counts: list[int], card: Card) -> list[str]:
    """The smallest step of which so many cards keep `cost.WORTH` of their time."""
    lines = [
        f"| type | cards | {cost.WORTH:.0%} from rows a step | rows a card | ms a step | tokens/s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for dtype, work in works.items():
        rate = cost.rate_of(card, work)
        for count in counts:
            rows = cost.rows_worth(work, count, card, rate)
            if rows is None:
                lines.append(f"| {dtype} | {count} | none | | | |")
                continue
            now = cost.predict(replace(work, rows=rows), count, card, rate)
            lines.append(
                f"| {dtype} | {count} | {rows:,} | {rows // count} | {now.step * 1000:,.1f} | "
                f"{rows * work.tokens / now.step:,.0f} |"
            )
    return lines


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Raises:
    UserError: an option that there is not, or no config and tokens.
    """
    plain, options = options_of(words, DEFAULTS, "scaling_table")
    if not plain or not options["tokens"]:
        raise UserError("no config, or no tokens of a row", "CONFIG --tokens=124.9", "see docs/scaling.md")
    return plain, options


def _whole(text: str, place: str) -> list[int]:
    return [int(number_of(part, place, whole=True)) for part in text.split(",")]


def main() -> None:
    words, options = _options(sys.argv[1:])
    counts, sizes = _whole(options["cards"], "--cards"), _whole(options["rows"], "--rows")
    card, tokens = cost.card_of(options["card"]), number_of(options["tokens"], "--tokens")
    price = number_of(options["price"], "--price")
    works: dict[str, Work] = {}
    types = options["types"].split(",")
    if unknown := set(types) - set(cost.POINTS):
        raise UserError(f"no such type: {min(unknown)!r}", "--types", f"there is {', '.join(cost.POINTS)}")
    for dtype in types:
        quantize = ["model.quantize=fp8"] if dtype == "fp8" else []
        config = load(Path(words[0]), [*words[1:], *quantize])
        planned = plan(config)
        if not planned.rows:
            raise UserError(
                "the config does not say how many rows there are", "data.sources", "give rows: of each source"
            )
        counted = replace(planned, tokens=round(planned.rows * tokens), exact=True)
        # As with the most cards: what fits no card by itself is sharded.
        is_sharded = sharding.planned_way(config, counted, max(counts), card) == "full"
        works[dtype] = work_of(config, counted, is_sharded)
    print("\n".join([*steps_table(works, counts, sizes, card, price), "", *worth_table(works, counts, card)]))


if __name__ == "__main__":
    raise SystemExit(guarded(main))
