"""`make plan`: what a run will be, before it costs anything."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("plan"))
