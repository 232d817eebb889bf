"""`make plan`: what a run will be, before it costs anything."""

from pipeline.command import main
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.stages import stale, up_to


def show_plan(config: Config, run: Run) -> None:
    """Prints the arithmetic of a config; counts tokens where the tokens stage is up to date."""
    from pipeline.training.plan import lines, plan

    manifest = run.manifest("tokens")
    counted = manifest["counts"]["train"] if manifest and not stale(config, run, up_to("tokens")) else None
    say("\n".join(lines(config, plan(config, counted))))


if __name__ == "__main__":
    raise SystemExit(main(show_plan, "Prints rows, tokens, steps, trained parameters and memory of a config."))
