"""`make compare`: base and tuned model side by side on question sets (docs/compare.md)."""

from functools import partial

from pipeline.command import main
from pipeline.stages import bring_up_to_date

ABOUT = "Answers question sets with base and tuned model, side by side on one page."

if __name__ == "__main__":
    raise SystemExit(main(partial(bring_up_to_date, last="compare"), ABOUT))
