"""`make publish TO=s3://bucket/folder`: the finished data of a run to an object store, in parts, manifest last.

    s3://bucket/folder/RUN/0123456789abcdef/train-00000.jsonl    parts of about `PART` bytes, whole lines
                       ...                 /val-00000.jsonl
                       ...                 /report.json
    s3://bucket/folder/RUN/manifest.json                         names the parts with bytes, rows and sha256

The middle folder is the hash of the data, so that a part never changes: who reads by the manifest sees the data before
or after, never a mixture. Parts that are there with their size are not sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.files import byte_bar
from pipeline.run.folder import SPLITS, Run
from pipeline.run.object_address import path_of
from pipeline.run.object_store import connected, errors
from pipeline.run.progress import say

PART = 256 << 20  # bytes of a part, about; it ends with a line
BLOCK = 8 << 20  # bytes in memory at a time
REPORTS = ("report.json",)


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `start + size` of a file, which hold `rows` lines."""

    name: str
    file: Path
    start: int
    size: int
    rows: int
    sha256: str

    def blocks(self) -> Iterator[bytes]:
        with open(self.file, "rb") as file:
            file.seek(self.start)
            left = self.size
            while left and (block := file.read(min(BLOCK, left))):
                left -= len(block)
                yield block


def publish(config: Config, run: Run, target: str) -> None:
    """Sends the splits and the report of the run's data. Memory: a block; the disk takes nothing.

    Raises:
        UserError: the store cannot be written, or the data has changed since it was made.
    """
    top = f"s3://{path_of(target)}/{config.name}"
    run.check("dataset")
    content = run.content("dataset")[:16]
    folder = run.folder("dataset")
    names = [*(f"{split}.jsonl" for split in SPLITS), *REPORTS]
    parts = [part for name in names for part in parts_of(folder / name, PART if name.endswith(".jsonl") else 0)]
    sent = 0
    with byte_bar(sum(part.size for part in parts), "publish") as progress:
        for part in parts:
            address = f"{top}/{content}/{part.name}"
            if not _is_there(address, part):
                _write(address, part)
                sent += 1
            progress.update(part.size)
    manifest = {
        "run": config.name, "data": run.content("dataset"), "counts": (run.manifest("dataset") or {}).get("counts"),
        "parts": [
            {"path": f"{content}/{p.name}", "bytes": p.size, "rows": p.rows, "sha256": p.sha256} for p in parts
        ],
    }  # fmt: skip
    with errors(top), connected().open_output_stream(path_of(f"{top}/manifest.json"), None) as stream:
        stream.write(json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    say(f"publish: {len(parts)} parts, {sent} of them sent; {top}/manifest.json names them")


def parts_of(file: Path, most: int) -> Iterator[Part]:
    """Cuts a file between lines into parts of at least `most` bytes; 0: one part, the file. An empty file has none."""
    start = size = rows = number = 0
    digest = hashlib.sha256()

    def part() -> Part:
        name = f"{file.stem}-{number:05d}{file.suffix}" if most else file.name
        return Part(name, file, start, size, rows, digest.hexdigest())

    with open(file, "rb") as lines:
        for line in lines:
            digest.update(line)
            size, rows = size + len(line), rows + 1
            if most and size >= most:
                yield part()
                start, number, size, rows, digest = start + size, number + 1, 0, 0, hashlib.sha256()
    if size:
        yield part()


def _is_there(address: str, part: Part) -> bool:
    """Whether the store has the part: its folder names the content, so its size tells whether it is whole."""
    with errors(address):
        info = connected().get_file_info(path_of(address))
    return bool(info.type.name == "File" and info.size == part.size)


def _write(address: str, part: Part) -> None:
    """Writes a part; the object exists when all of it is there."""
    digest, path = hashlib.sha256(), path_of(address)
    try:
        with errors(address), connected().open_output_stream(path, None) as stream:
            for block in part.blocks():
                digest.update(block)
                stream.write(block)
    except UserError:  # the store failed, so it has no object
        raise
    except BaseException:  # Ctrl-C: leaving the block closed the stream, and what was sent became an object
        with contextlib.suppress(Exception):
            connected().delete_file(path)
        raise
    if digest.hexdigest() != part.sha256:
        connected().delete_file(path)
        raise UserError("the file changed while it was sent", str(part.file), "run the same command again")
