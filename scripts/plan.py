"""`make plan`: what a run will be, before it costs anything."""

from pipeline.command import main
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.progress import say, working
from pipeline.stages import stale, up_to

INDENT = 11  # columns in front of the values


def show_plan(config: Config, run: Run) -> None:
    """Prints the arithmetic of a config; counts tokens where the tokens stage is up to date."""
    with working("plan: loading torch and transformers"):
        from pipeline.training import duration
        from pipeline.training.plan import lines, plan

    manifest = run.manifest("tokens")
    counted = manifest["counts"]["train"] if manifest and not stale(config, run, up_to("tokens")) else None
    with working("plan: counting"):
        planned = plan(config, counted)
        times = duration.lines(planned, duration.duration(config, planned, run.root.parent))
    for line in lines(config, planned, times):
        say(line, hanging=0 if line.startswith(" ") else INDENT)


if __name__ == "__main__":
    raise SystemExit(main(show_plan, "Prints rows, tokens, steps, trained parameters and memory and time of a config."))
