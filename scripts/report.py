"""`make report`: one page of all that a run folder holds (docs/report.md). It makes no stage."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("report"))
