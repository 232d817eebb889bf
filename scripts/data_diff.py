"""`make data-diff A=run1 B=run2`: what changed between two builds of a data set."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("data-diff"))
