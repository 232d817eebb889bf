"""`make chat`: talk to the exported checkpoint, or to a stored adapter on its base."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("chat"))
