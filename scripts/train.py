"""`make train`: see pipeline/stages.py."""

from pipeline.command import main
from pipeline.stages import bring_up_to_date

if __name__ == "__main__":
    raise SystemExit(main(lambda config, run: bring_up_to_date(config, run, "train"), "Brings train up to date."))
