"""`make eval`: see pipeline/stages.py."""

from pipeline.command import main
from pipeline.stages import evaluate

if __name__ == "__main__":
    raise SystemExit(main(evaluate, "Measures base and tuned model on held-out rows and benchmarks."))
