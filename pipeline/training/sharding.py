"""Whether a run shards its weights over its ranks: `train.shard`, decided before anything is loaded.

    none   every card holds the whole base, and the optimizer's state; ranks exchange gradients once a step
    full   every card holds 1/N of it; ranks exchange every block in every pass (`pipeline/model/sharded.py`)

`auto` is none while a card holds the base, with activations recomputed, and full when it does not.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.config.method_rules import not_sharded, spec_of
from pipeline.config.schema import Config
from pipeline.model.memory import free_bytes
from pipeline.model.precision import device, dtype_name
from pipeline.ranks.launcher import launched_with_fsdp
from pipeline.run.errors import UserError
from pipeline.run.progress import say
from pipeline.training.cost import Card, bandwidth_of
from pipeline.training.plan import GIB, Plan, plan

GATHERED = 2.5
SHARE = 0.9  # of a card's free memory that a run may need by the prediction and still not be sharded


def shares(config: Config) -> bool:
    """Whether a config, after `decide`, shards its weights."""
    return config.train.shard == "full"


def shards_trained(config: Config) -> bool:
    """Whether the trained weights are sharded; else adapters, which are in every rank."""
    return shares(config) and spec_of(config.adapter).name == "full"


def decide(config: Config, shape: Any, longest: int, world: int, any_rank: Any, verbose: bool = True) -> Config:
    """The config with `train.shard` decided: none or full.

    Args:
        shape: the base's transformers config. longest: tokens of the longest row. any_rank: whether a flag is set in
            any rank; all ranks must take the same.

    Raises:
        UserError: sharding was asked for, and something in the config excludes it.
    """
    wanted, problem = config.train.shard, problem_of(config)
    if wanted == "auto":
        asked = launched_with_fsdp()
        needed = asked or (world > 1 and torch.cuda.is_available() and not _fits(config, shape, longest))
        wanted = "full" if any_rank(needed) else "none"
        why = "accelerate was started with FSDP" if asked else "the run does not fit into one card by the plan"
        if wanted == "full" and problem and not asked:  # the plan is an estimate, so the run may try
            wanted = "none"
            say(f"train: {why}, and its weights cannot be sharded: {problem[0]}") if verbose else None
        elif wanted == "full" and verbose and not problem:
            cards = f"{world} card{'s' if world > 1 else ''}"
            say(f"train: {why}: weights are sharded over {cards} (train.shard=full)")
    elif wanted == "none" and launched_with_fsdp() and verbose:
        say("train: accelerate was started with FSDP, and train.shard=none keeps the weights whole on every card")
    if wanted == "full" and problem:
        raise _refused(problem)
    return config.model_copy(update={"train": config.train.model_copy(update={"shard": wanted})})


def check_sharding(config: Config) -> None:
    """Raises:
    UserError: something in the config excludes sharding, which config or launcher ask for.
    """
    if problem := problem_of(config):
        raise _refused(problem)


def _refused(problem: tuple[str, str]) -> UserError:
    return UserError(f"the weights cannot be sharded: {problem[0]}", "train.shard", problem[1])


def problem_of(config: Config) -> tuple[str, str] | None:
    """What excludes sharding, and what to do, for reasons that only this machine knows or that the config has."""
    if problem := not_sharded(config):
        return problem
    if spec_of(config.adapter).name == "full" and dtype_name(config.model) == "fp16":
        return "gradients of sharded weights are not scaled, as fp16 needs", "set model.dtype=bf16 or fp32"
    return None


def card_bytes(config: Config, planned: Plan, longest: int, world: int) -> float:
    """About the least bytes of a card that a run needs for a row of so many tokens, with activations recomputed.

    Args:
        world: ranks over which weights are sharded; 1: not sharded.

    Of sharded trained weights a card also holds two blocks in 16 bits, the gradients of one in 16 and in 32 bits, and
    the same for embedding and head, which are one group: `GATHERED` times their size in float32.
    """
    if planned.fast is not None:
        return planned.fast.sharded(world).peak(longest, "block")
    activations = longest * planned.recomputed_mib * 2**20
    trained, base, outside = (gib * GIB for gib in (planned.training_gib, planned.weights_gib, planned.outside_gib))
    if spec_of(config.adapter).name != "full" or world == 1:
        return base + trained + planned.copies_gib * GIB + activations
    gathered = GATHERED * ((base - outside) / max(1, planned.blocks) + outside)
    return (base + trained) / world + gathered + activations


def gathered_bytes(config: Config, planned: Plan) -> float:
    """Bytes that a pass of sharded weights gathers or reduces, over all ranks together: blocks forward and backward,
    and of trained weights their gradients in float32."""
    if spec_of(config.adapter).name == "full":
        return planned.parameters * (2 * 2 + 4)
    return 2 * planned.fast.blocks if planned.fast else 0.0


def planned_way(config: Config, planned: Plan, count: int, card: Card) -> str:
    """`train.shard` as a run on so many cards would decide it, by the card's name: none or full."""
    if count == 1 or _is_excluded(config, planned):
        return "none"
    if config.train.shard != "auto":
        return config.train.shard
    fits = card_bytes(config, planned, _longest(config, planned), 1) <= SHARE * card.memory * 1e9
    return "none" if fits else "full"


def _is_excluded(config: Config, planned: Plan) -> bool:
    """Whether weights cannot be sharded, or nothing is known of what that would need."""
    return not_sharded(config) is not None or (planned.fast is None and spec_of(config.adapter).name != "full")


def _longest(config: Config, planned: Plan) -> int:
    return planned.longest or config.prompt.cutoff


def lines(config: Config, planned: Plan, count: int, card: Card, link: float = 0.0) -> list[str]:
    """What each of several cards needs, for `make plan`; none where sharding is excluded.

    Args:
        link: see `cost.predict`.
    """
    if count == 1 or _is_excluded(config, planned):
        return []
    longest, room = _longest(config, planned), card.memory * 1e9
    needs = {"none": card_bytes(config, planned, longest, 1), "full": card_bytes(config, planned, longest, count)}
    how = [f"{way} {size / GIB:.1f} GiB{'' if size <= SHARE * room else ' (too much)'}" for way, size in needs.items()]
    taken = planned_way(config, planned, count, card)
    moved = (count - 1) / count * gathered_bytes(config, planned)
    seconds = moved / (bandwidth_of(count, card, link) * 1e9)
    shown = [
        f"sharding   at least on each {card.name}, of {room / GIB:.0f} GiB, for a row of {longest:,} tokens, by "
        f"train.shard: {', '.join(how)}; this run takes {taken}"
    ]
    if taken == "full":
        shown.append(
            f"           a pass exchanges {moved / 1e9:,.1f} GB a card, {seconds * 1000:,.0f} ms at the link's speed, "
            "hidden as far as computing takes longer"
        )
    return shown


def _fits(config: Config, shape: Any, longest: int) -> bool:
    """Whether a card holds the whole run."""
    planned = plan(config, {"rows": 1, "tokens": 1}, shape)
    return card_bytes(config, planned, longest, 1) <= SHARE * free_bytes(device())
