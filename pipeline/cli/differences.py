"""The commands `diff` and `recover`: an export without the weights of its base."""

from __future__ import annotations

from pipeline.cli.command_line import Given


def diff(given: Given) -> None:
    """Exports, where that is not done, and writes the difference from the base."""
    config, run = given.load()
    from pipeline.release.difference import stage
    from pipeline.stages import bring_up_to_date

    stage.check(config)
    config = bring_up_to_date(config, run, "export")
    stage.make_difference(config, run)


def recover(given: Given) -> None:
    """Adds a difference to its base."""
    from pipeline.release.difference.stage import recover_model

    recover_model(*given.words)
