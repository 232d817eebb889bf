"""`make plan`: what a run will be, before it costs anything."""

from pipeline.command import main
from pipeline.stages import show_plan

if __name__ == "__main__":
    raise SystemExit(main(show_plan, "Prints rows, tokens, steps, trained parameters and memory of a config."))
