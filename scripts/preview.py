"""`make preview`: five encoded rows as a person reads them."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("preview"))
