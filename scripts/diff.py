"""`make diff`: the export as exact difference from its base, for bases that may not be given away."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("diff"))
