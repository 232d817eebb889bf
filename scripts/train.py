"""`make train`: the adapter, and the data and tokens that it is trained on."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("train"))
