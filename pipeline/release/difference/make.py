"""Writes the difference between a tuned model and its base into a folder.

    diff.json                        what base it needs, and hashes of all that is there and will be recovered
    diff-model-....safetensors       integers, one file for each of the model's
    RECOVER.md                       what this is, and how to get the model back
    config.json, tokenizer.json, ... as in the export; they hold nothing of the base's weights

Tensors that the base does not have, and new rows at the end of the embeddings, are stored whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.model.base.folder import weight_files
from pipeline.model.base.safetensors_header import BITS, Entry, in_file_order, read_header
from pipeline.release.difference.blocks import Tensors, combine, header_text, write_header
from pipeline.run.errors import UserError
from pipeline.run.files import byte_bar, need_space, sealed, sha256_file, write_json, write_text

RECORD = "diff.json"
PREFIX = "diff-"
VERSION = 1
NOTE = "RECOVER.md"
NOTE_TEXT = """# This folder holds no model

It holds the difference of a model from its base, `{base}`, and nothing of the base. Whoever has the base gets the model
back with Suri, byte for byte:

    make recover BASE={base} DIFF=this-folder OUT=new-folder

`diff.json` holds the sha256 of the base's tensors and of all files; `README.md` is the card of the recovered model.
"""
LEFT_OUT = ("manifest.json", RECORD, NOTE)  # of the run, not of the model


def write_difference(base: Path, tuned: Path, folder: Path, base_name: str) -> dict[str, Any]:
    """Writes the difference of two folders with safetensors into an empty folder; returns its record.

    Args:
        base_name: as others know it.

    Raises:
        UserError: a file is damaged, the two are stored in different types, or the disk is too small.
    """
    names = weight_files(tuned)
    files = [path for path in sorted(tuned.iterdir()) if path.is_file() and path.name not in (*names, *LEFT_OUT)]
    total = sum((tuned / name).stat().st_size for name in names)
    need_space(folder, total + sum(path.stat().st_size for path in files), "the difference")
    source = opened(base, "name the base's folder with model.base")
    for name in names:
        check_types(source, read_header(tuned / name), base_name)
    with byte_bar(total, "diff") as progress:
        weights = [_write_file(source, tuned / name, folder / f"{PREFIX}{name}", progress.update) for name in names]
    for path in files:
        shutil.copyfile(path, folder / path.name)
    record = sealed({
        "version": VERSION, "base": base_name, "weights": weights,
        "files": {path.name: sha256_file(folder / path.name, quiet) for path in files},
    })  # fmt: skip
    write_json(folder / RECORD, record)
    write_text(folder / NOTE, NOTE_TEXT.format(base=base_name))
    return record


def quiet(count: int) -> None:
    """For `sha256_file`, which draws a bar otherwise: one is drawn already."""


def opened(folder: Path, fix: str, files: list[str] | None = None) -> Tensors:
    """The tensors of a folder.

    Raises:
        UserError: a file is damaged.
    """
    try:
        return Tensors(folder, files)
    except (ValueError, OSError) as error:
        raise UserError(f"a safetensors file cannot be read: {error}", str(folder), fix) from None


def check_types(base: Tensors, entries: dict[str, Entry], base_name: str) -> None:
    """Raises:
    UserError: a tensor is stored in another type than in the base.
    """
    for name, entry in entries.items():
        other = base.entries.get(name)
        if other is not None and other.dtype != entry.dtype:
            what = f"the export is stored in {entry.dtype}, its base {base_name} in {other.dtype} ({name})"
            short = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}.get(other.dtype, other.dtype)
            raise UserError(what, "export.dtype", f"set export.dtype={short}, so that the difference is exact")


def covered_bytes(base: Tensors, name: str, entry: Entry) -> int:
    """How many bytes at the front of a tensor have a counterpart in the base: all, some rows, or none."""
    other = base.entries.get(name)
    if other is None or not entry.shape or other.shape[1:] != entry.shape[1:] or len(other.shape) != len(entry.shape):
        return 0 if other is None or other.shape != entry.shape else entry.end - entry.begin
    return min(entry.end - entry.begin, other.end - other.begin)


def _write_file(base: Tensors, source: Path, target: Path, progress: Callable[[int], Any]) -> dict[str, Any]:
    """Writes the difference of one file; returns its part of the record."""
    tuned = opened(source.parent, "export again", [source.name])
    integers = {
        name: {"dtype": f"U{BITS[e.dtype]}", "shape": e.shape, "data_offsets": [e.begin, e.end]}
        for name, e in tuned.entries.items()
    }
    tensors = {}
    with open(target, "wb") as file:
        write_header(file, json.dumps(integers).encode())
        for name, entry in in_file_order(tuned.entries):
            size, covered = entry.end - entry.begin, covered_bytes(base, name, entry)
            of_base = base.blocks(name, covered) if covered else iter(())
            digest = combine(file, tuned.blocks(name, size), of_base, covered, entry.dtype, -1, progress)
            tensors[name] = {"covered": covered, "base_sha256": digest if covered else ""}
    return {
        "file": source.name, "sha256": sha256_file(source, quiet), "header": header_text(source).decode("utf-8"),
        "difference": target.name, "difference_sha256": sha256_file(target, quiet), "tensors": tensors,
    }  # fmt: skip
