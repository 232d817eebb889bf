"""What can be told of a training before any stage is made: from config, environment and machine alone.

Data and tokens may take minutes or hours, so what no data can change is refused before them. No torch, unless weights
are to be sharded or a card is asked.
"""

from __future__ import annotations

import importlib.util

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config
from pipeline.ranks.launcher import check_launcher, launched_with_fsdp
from pipeline.ranks.place import Place
from pipeline.run.errors import UserError

MODULES = {"tensorboard": ("tensorboard", "tensorboardX")}  # of a tracker whose module has another name, any of them


def check(config: Config, world: int) -> None:
    """Whether so many ranks can train the config.

    Raises:
        UserError: they were started with DeepSpeed, are more than the rows of a step, are to shard weights that cannot
            be, or the tracker is not installed.
    """
    if spec_of(config.adapter).export == "nothing":
        return
    check_launcher()
    check_ranks(world, config.train.batch_size)
    check_tracker(config.train.tracker)
    if config.train.shard == "full" or (config.train.shard == "auto" and launched_with_fsdp()):
        from pipeline.training.sharding import check_sharding

        check_sharding(config)


def check_rank(config: Config, place: Place) -> None:
    """Whether the card of a rank can train the config.

    Raises:
        UserError: there is no card for it, or it cannot compute in this type.
    """
    from pipeline.model.precision import check_card
    from pipeline.ranks.card import check_card_exists

    check_card_exists(place)
    check_card(config.model)


def check_ranks(world: int, batch_size: int) -> None:
    """Raises:
    UserError: some ranks would never have a row.
    """
    if world > batch_size:
        what = f"{world} processes, and a step has {batch_size} rows: some would compute nothing"
        raise UserError(what, "train.batch_size", f"start at most {batch_size} processes, or raise train.batch_size")


def check_tracker(tracker: str) -> None:
    """Raises:
    UserError: the package of the tracker is not there.
    """
    if tracker != "none" and not any(importlib.util.find_spec(name) for name in MODULES.get(tracker, (tracker,))):
        fix = f".venv/bin/pip install {tracker}, or set train.tracker=none"
        raise UserError(f"the tracker {tracker!r} is not installed", "train.tracker", fix)
