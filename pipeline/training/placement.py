"""Where a run keeps its frozen blocks and activations, decided before anything is loaded.

`train.checkpointing: auto` begins as the fastest of `footprint.WAYS` that fits into the card with the longest row.
Between the first two, none and block, training decides later by measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.config.schema import Config
from pipeline.model.memory import free_bytes
from pipeline.model.precision import device
from pipeline.run.errors import UserError
from pipeline.run.files import readable_size
from pipeline.run.free_memory import free_memory_bytes
from pipeline.run.progress import say
from pipeline.training.footprint import ROOM, WAYS, Footprint
from pipeline.training.plan import footprint_of, plan

GIB = 2**30


def fastest(
    footprint: Footprint, tokens: int, budget: float, main_memory: float, ways: Sequence[str] = WAYS
) -> str:  # fmt: skip
    """The first of `ways` whose peak with so many tokens is within `budget` bytes of the card, and whose blocks or
    activations fit into so many bytes of main memory; empty where none does."""
    for way in ways:
        fits = footprint.peak(tokens, way) <= footprint.usable(way, budget)
        if fits and (footprint.main_memory(way, tokens) + ROOM <= main_memory or way in ("none", "block")):
            return way
    return ""


def ways_of(config: Config) -> tuple[str, ...]:
    """The ways that a config may take."""
    asked = config.train.checkpointing
    if asked != "auto":
        return (asked,)
    if config.train.shard == "full":
        return WAYS[:2]
    can_stream = config.adapter.init == "default" and config.model.quantize != "fp8"
    return WAYS if can_stream else WAYS[:-1]


def place(config: Config, shape: Any, longest: int, resumed: str = "", verbose: bool = True) -> Config:
    """The config with `train.checkpointing` decided as far as loading needs it; `auto` stays where blocks and what they
    keep remain on the card.

    Args:
        shape: the base's transformers config. longest: tokens of the longest row.
        resumed: what was decided before the checkpoint that the run resumes from: another choice rounds differently.

    Raises:
        UserError: main memory is too small for `offload` or `stream`.
    """
    way: Any = config.train.checkpointing
    if way == "auto" and resumed in ways_of(config):
        way = resumed
    elif way == "auto" and config.train.shard == "full":
        pass  # the ways that remain are chosen by measurement
    elif way == "auto" and torch.cuda.is_available():
        way = _choose(config, shape, longest, verbose)
    if way in ("offload", "stream"):
        _check_main_memory(config, shape, way, longest)
    return config.model_copy(update={"train": config.train.model_copy(update={"checkpointing": way})})


def _choose(config: Config, shape: Any, longest: int, verbose: bool) -> str:
    footprint = footprint_of(config, shape)
    if footprint is None:  # of models without LLaMA's blocks nothing is predicted
        return "auto"
    budget = free_bytes(device())
    way = fastest(footprint, longest, budget, free_memory_bytes(), ways_of(config))
    if way not in ("offload", "stream"):
        return "auto"
    if verbose:
        peak = footprint.peak(longest, "block") / GIB
        what = "frozen blocks stay in main memory" if way == "stream" else "activations go to main memory"
        say(
            f"train: {budget / GIB:.1f} GiB of the card are free, and the longest row needs {peak:.1f} with blocks "
            f"recomputed: {what} (train.checkpointing={way})"
        )
    return way


def _check_main_memory(config: Config, shape: Any, way: str, longest: int) -> None:
    """Raises:
    UserError: main memory is too small.
    """
    planned = plan(config, {"rows": 1, "tokens": 1}, shape)
    if planned.fast is None and way == "offload":
        return
    blocks = (planned.weights_gib - planned.outside_gib) * GIB
    needed = (blocks if planned.fast is None else planned.fast.main_memory(way, longest)) + ROOM
    free = free_memory_bytes()
    if needed > free:
        what = f"{way} needs {readable_size(int(needed))} of main memory, and {readable_size(free)} are free"
        fix = "set model.quantize=nf4, choose a smaller base, or free memory"
        if way == "offload":
            fix = "set train.checkpointing=block, lower prompt.cutoff, or free memory"
        raise UserError(what, "train.checkpointing", fix)
