"""`python -m pipeline`: the command `suri`."""

from pipeline.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
