"""`make push REPO=you/name`: sends an export to a hub, private unless told otherwise."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("push"))
