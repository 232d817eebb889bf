"""`make publish TO=s3://bucket/folder`: sends the data of a run to an object store."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("publish"))
