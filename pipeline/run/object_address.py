"""Addresses of objects in a store, such as s3://bucket/folder/rows.jsonl: what they name, and which are refused."""

from __future__ import annotations

import re

from pipeline.run.errors import UserError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
NO_CREDENTIALS = (
    "remove them, since addresses are written into the run's folder; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


def is_address(path: str) -> bool:
    """Whether a path is an address such as s3://bucket/key."""
    return SCHEME.match(path) is not None


def holds_credentials(address: str) -> bool:
    """Whether an address has the form s3://KEY:SECRET@bucket/key. A secret may hold a slash; no bucket has : or @."""
    match = SCHEME.match(address)
    host = match[2].partition("/")[0] if match else ""
    return "@" in host or (":" in host and match is not None and match[1].lower() == "s3")


def path_of(address: str) -> str:
    """Bucket and key of an address.

    Raises:
        UserError: another scheme than s3, credentials, no bucket, or a key that pyarrow's client cannot name.
    """
    match = SCHEME.match(address)
    scheme, path = (match[1], match[2].rstrip("/")) if match else ("", "")
    if holds_credentials(address):
        raise UserError("the address holds credentials", f"{scheme}://***@{path.rpartition('@')[2]}", NO_CREDENTIALS)
    if not match:
        raise UserError("not an address of object storage", address, "s3://bucket/folder")
    if scheme != "s3":
        fix = "use s3://bucket/key (any store with the S3 API), or a copy on a disk"
        raise UserError(f"addresses of the kind {scheme}:// cannot be read", address, fix)
    if not path or path.startswith("/"):
        raise UserError("the address names no bucket", address, "s3://bucket/key")
    if {"", ".", ".."} & set(path.split("/")):
        fix = "check the address; an object whose key really holds one needs a copy under another key"
        raise UserError("the address holds an empty folder name (//), . or ..", address, fix)
    return path
