"""`make generate`: a teacher model makes rows of data (docs/synthesis.md)."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("generate"))
