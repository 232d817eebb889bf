"""`make train`: the adapter, and the data and tokens that it is trained on."""

from functools import partial

from pipeline.command import main
from pipeline.stages import bring_up_to_date

ABOUT = "Brings the adapter up to date."

if __name__ == "__main__":
    raise SystemExit(main(partial(bring_up_to_date, last="train"), ABOUT))
