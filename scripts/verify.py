"""`make verify`: whether a run folder, what it was made from and what came out are what was written."""

from pipeline.command import main
from pipeline.stages import verify_run

if __name__ == "__main__":
    raise SystemExit(main(verify_run, "Hashes a run folder and what it was made from anew.", model=False))
