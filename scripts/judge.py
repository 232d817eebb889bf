"""`make judge`: the verdicts of another model on the answers of `make compare` (docs/compare.md)."""

from functools import partial

from pipeline.command import main
from pipeline.stages import bring_up_to_date

ABOUT = "Has a model behind an OpenAI-compatible address judge base against tuned model."

if __name__ == "__main__":
    raise SystemExit(main(partial(bring_up_to_date, last="judge"), ABOUT))
