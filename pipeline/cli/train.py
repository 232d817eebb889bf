"""The command `train`: in this process, or in one for each card of this host."""

from __future__ import annotations

import os

from pipeline.cli.command_line import Given
from pipeline.run.next_command import is_suri


def train(given: Given) -> None:
    """Trains; with `--gpus`, starts the ranks that do so. A rank has the same words and `RANK`."""
    config, run = given.load()
    gpus = given.options.get("gpus", "")
    if gpus and "RANK" not in os.environ:
        from pipeline.ranks.launch import check_count, launch, restarts_of

        names = ("--gpus", "--restarts") if is_suri() else ("GPUS", "RESTARTS")
        count = check_count(gpus, names[0])
        restarts = restarts_of(given.options.get("restarts", ""), names[1])
        if count > 1:
            words = [f"--config={given.config}"] if given.config else []
            launch(count, ["train", *words, f"--gpus={count}", *given.overrides], restarts)
            return
    from pipeline.stages import bring_up_to_date

    bring_up_to_date(config, run, "train")
