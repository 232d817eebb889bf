"""`make ui`: the server of `make serve`, and its page in a browser."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("ui"))
