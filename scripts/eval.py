"""`make eval`: base against tuned model on held-out rows and benchmarks (docs/evaluation.md)."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("eval"))
