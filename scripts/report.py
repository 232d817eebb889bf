"""`make report`: see pipeline/run_report."""

from pipeline.command import main
from pipeline.stages import make_report

if __name__ == "__main__":
    raise SystemExit(main(make_report, "Gathers all that a run folder holds on one page.", model=False))
