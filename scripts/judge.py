"""`make judge`: the verdicts of another model on the answers of `make compare` (docs/compare.md)."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("judge"))
