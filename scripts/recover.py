"""`make recover BASE=... DIFF=... OUT=...`: base and difference give the tuned model back."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("recover"))
