"""The command `train`: in this process, or in one for each card of this host."""

from __future__ import annotations

import os

from pipeline.cli.command_line import Given
from pipeline.run.next_command import is_suri


def train(given: Given) -> None:
    """Trains; with `--gpus`, starts the ranks that do so. A rank has the same words and `RANK`."""
    from pipeline.stages import bring_up_to_date, check_train

    config, run = given.load()
    gpus, restarts = given.options.get("gpus", ""), given.options.get("restarts", "")
    if (gpus or restarts) and "RANK" not in os.environ:
        from pipeline.ranks.launch import check_count, launch, restarts_of

        names = ("--gpus", "--restarts") if is_suri() else ("GPUS", "RESTARTS")
        count = check_count(gpus or "1", names[0])
        again = restarts_of(restarts, names[1], count, names[0])
        if count > 1:
            check_train(config, run, count)
            words = [f"--config={given.config}"] if given.config else []
            launch(count, ["train", *words, f"--gpus={count}", *given.overrides], again)
            return
    bring_up_to_date(config, run, "train")
