"""`make export`: the merged checkpoint, and all that it needs."""

from functools import partial

from pipeline.command import main
from pipeline.stages import bring_up_to_date

ABOUT = "Brings the exported checkpoint up to date."

if __name__ == "__main__":
    raise SystemExit(main(partial(bring_up_to_date, last="export"), ABOUT))
