"""`make judge`: see pipeline/comparison/judge.py."""

from pipeline.command import main
from pipeline.stages import judge

if __name__ == "__main__":
    raise SystemExit(main(judge, "Has a model behind an OpenAI-compatible address judge base against tuned model."))
