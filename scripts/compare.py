"""`make compare`: see pipeline/comparison/stage.py."""

from pipeline.command import main
from pipeline.stages import compare

if __name__ == "__main__":
    raise SystemExit(main(compare, "Answers a question set with base and tuned model, side by side on one page."))
