"""`make data`: rows, tokens and the report on them."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("data"))
