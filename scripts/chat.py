"""`make chat`: talk to the exported checkpoint."""

from pipeline.command import main
from pipeline.stages import talk

if __name__ == "__main__":
    raise SystemExit(main(talk, "Talks to the exported checkpoint of a config."))
