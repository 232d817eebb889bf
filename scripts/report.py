"""`make report`: one page of all that a run folder holds (docs/report.md). It makes no stage."""

from pipeline.command import main
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.stages import STAGES


def make_report(config: Config, run: Run) -> None:
    """Writes the page.

    Raises:
        UserError: the run folder is empty, or a file in it was changed.
    """
    from pipeline.run_report.stage import build

    run.check(*(stage.folder for stage in STAGES), but=".safetensors")
    build(config, run)


if __name__ == "__main__":
    raise SystemExit(main(make_report, "Gathers all that a run folder holds on one page.", model=False, files=False))
