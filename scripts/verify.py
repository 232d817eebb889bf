"""`make verify`: whether a run folder, and what it was made from, are what was written."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("verify"))
