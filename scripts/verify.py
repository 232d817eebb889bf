"""`make verify`: whether a run folder, and what it was made from, are what was written."""

from pipeline.command import main
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.integrity import verify
from pipeline.stages import STAGES


def verify_run(_: Config, run: Run) -> None:
    """Hashes all that the run folder holds, and what it was made from.

    Raises:
        UserError: something is not what was written.
    """
    verify(run, [(stage.name, stage.folder) for stage in STAGES])


if __name__ == "__main__":
    raise SystemExit(main(verify_run, "Hashes a run folder and what it was made from anew.", model=False, files=False))
