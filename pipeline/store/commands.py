"""The commands of `make adapters` other than `keep`: arguments are parsed, the store is called, results are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.adapter_name import check
from pipeline.run.errors import UserError
from pipeline.run.folder import HELD_OUT
from pipeline.run.progress import say
from pipeline.run.terminal import quoted
from pipeline.store.folder import Store
from pipeline.store.table import detail, table


@dataclass(frozen=True)
class CombineArguments:
    """Arguments of `combine` as typed. shares: `NAME=WEIGHT` each."""

    name: str
    shares: Sequence[str]
    how: str
    rank: str
    density: str
    replace: bool


def manage(verb: str, name: str) -> None:
    """`list`, `show` or `remove`.

    Raises:
        UserError: no such adapter, or the store is in use.
    """
    store = Store.here()
    if verb == "list":
        say(table(store))
    elif verb == "show":
        say(detail(store, name))
    else:
        store.remove(name)
        say(f"removed: {store.root / name}")


def print_measured(results: dict[str, Any]) -> None:
    """Prints the results of `measure`, one line per split."""
    from pipeline.evaluation.results import exact_share

    for split, name in HELD_OUT.items():
        if split not in results:
            continue
        marks = results[split]
        line = f"{name}: loss {marks['loss']:.3f} ({marks['rows']} rows)"
        if "exact" in marks:
            line += f", exact match {exact_share(marks)} ({marks['answers']} answers)"
        say(line)


def combine_adapters(words: CombineArguments) -> None:
    """Parses the arguments and calls `combine`.

    Raises:
        UserError: an argument cannot be parsed; from `combine`.
    """
    check(words.name)
    if not words.shares:
        raise UserError("no adapters to combine", "COMBINE", 'COMBINE="maths=0.7 korean=0.3"')
    shares = [_share(word) for word in words.shares]
    if len({name for name, _ in shares}) < len(shares):
        raise UserError("an adapter is named twice", " ".join(words.shares), "give it once, with one weight")
    rank = _number(words.rank, "RANK", 0, 1 << 14)
    density = _number(words.density, "DENSITY", 0, 1)
    if rank != int(rank) or not density:
        raise UserError("RANK is a whole number and DENSITY a share above 0", f"{words.rank}, {words.density}")
    store = Store.here()
    store.check_free(words.name, words.replace)
    for name, _ in shares:
        store.record(name)  # before torch is imported
    from pipeline.store.combine import HOWS, combine

    if words.how not in HOWS:
        raise UserError(f"unknown HOW={quoted(words.how)}", "HOW", f"one of {', '.join(HOWS)}")
    about = combine(store, words.name, shares, words.how, int(rank), density, words.replace)  # type: ignore[arg-type]
    kept = "" if words.how == "cat" else f"; the rank keeps {about['kept']:.1%} of it (squared norm)"
    of = " + ".join(f"{weight:g} {part}" for part, weight in about["of"].items())
    say(f"combined by {words.how}: {store.root / words.name} = {of}{kept}")


def _share(word: str) -> tuple[str, float]:
    name, sign, weight = word.partition("=")
    if not sign:
        raise UserError(f"{quoted(word)} has no weight", "COMBINE", 'COMBINE="maths=0.7 korean=0.3"')
    return check(name), _number(weight, name, -1e3, 1e3)


def _number(word: str, what: str, least: float, most: float) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise UserError(f"{what}={quoted(word)} is no number from {least:g} to {most:g}", what)
    return number
