"""`make export`: the merged checkpoint, and all that it needs."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("export"))
