"""`make compare`: base and tuned model side by side on question sets (docs/compare.md)."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("compare"))
