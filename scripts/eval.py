"""`make eval`: base against tuned model on held-out rows and benchmarks (docs/evaluation.md)."""

from functools import partial

from pipeline.command import main
from pipeline.stages import bring_up_to_date

ABOUT = "Measures base and tuned model on held-out rows and benchmarks."

if __name__ == "__main__":
    raise SystemExit(main(partial(bring_up_to_date, last="eval"), ABOUT))
