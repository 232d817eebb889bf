"""`make data`: rows, tokens and the report on them."""

from pipeline.command import main
from pipeline.stages import make_data

if __name__ == "__main__":
    raise SystemExit(main(make_data, "Brings the data, its tokens and its report up to date.", model=False))
