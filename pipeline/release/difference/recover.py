"""Adds a difference to its base: gives the tuned model's files back, byte for byte.

A difference may come from elsewhere: its record is read as `pipeline/run/json_file.py` reads files of others, names of
files may not lead out of the folder, and nothing is kept unless every hash is right.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.model.base.safetensors_header import BITS, damage, in_file_order
from pipeline.release.difference.blocks import Tensors, combine, write_header
from pipeline.release.difference.make import RECORD, VERSION, opened, quiet
from pipeline.run.errors import UserError
from pipeline.run.files import byte_bar, need_space, replace_folder, sealed, sha256_file
from pipeline.run.json_file import Kind, is_object, is_text, is_whole, read_object
from pipeline.run.terminal import quoted

NAME = re.compile(r"\w[\w.-]{0,200}", re.ASCII)
AGAIN = "fetch the difference again"
RECORD_KINDS: dict[str, Kind] = {"version": is_whole, "base": is_text, "files": is_object, "sha256": is_text}
LARGEST_RECORD = 64_000_000  # bytes; it holds the headers of all files


def recover(base: Path, difference: Path, out: Path) -> list[str]:
    """Writes the tuned model into `out`; returns the names of its files.

    Args:
        base: folder with the base's safetensors. difference: folder that `write_difference` wrote.

    Raises:
        UserError: another base, a damaged difference, a folder in the way, or a disk that is too small. Then nothing is
            written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("this folder is there already, and not empty", str(out), "name another one with OUT=...")
    record = read_record(difference)
    source = opened(base, "name the folder of the base, with its safetensors")
    weights = record["weights"]
    total = sum((difference / part["difference"]).stat().st_size for part in weights)
    need_space(out, total, "the recovered model")
    with replace_folder(out) as folder:
        with byte_bar(total, "recover") as progress:
            for part in weights:
                _recover_file(source, difference, folder / part["file"], part, progress.update)
        for name in record["files"]:
            shutil.copyfile(difference / name, folder / name)
        return sorted(path.name for path in folder.iterdir())


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a difference, after its files were compared with it.

    Raises:
        UserError: there is none, it is damaged, or a file differs from it.
    """
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"no {RECORD}: not a folder with a difference", str(folder), "name one that `make diff` wrote")
    record = read_object(path, RECORD_KINDS, AGAIN, LARGEST_RECORD)
    if record.get("version") != VERSION:
        raise UserError(f"a difference of version {record.get('version')}, {VERSION} is known", str(path), AGAIN)
    if sealed(record) != record or not _is_record(record):
        raise UserError("the record of the difference is damaged", str(path), AGAIN)
    hashes = {part["difference"]: part["difference_sha256"] for part in record["weights"]} | record["files"]
    for name, wanted in hashes.items():
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise UserError(f"the difference is not complete: {name} is missing", str(folder), AGAIN)
        if (given := sha256_file(folder / name, quiet)) != wanted:
            what = f"{name} is damaged: its sha256 is {given}, it should be {wanted}"
            raise UserError(what, str(folder), AGAIN)
    return record


def _is_record(record: dict[str, Any]) -> bool:
    """Whether the record has its fields, with names of files that stay in their folder."""
    weights, files = record.get("weights"), record.get("files")
    if not isinstance(weights, list) or not weights or not isinstance(files, dict):
        return False
    names = list(files)
    for part in weights:
        texts = ("file", "difference", "sha256", "difference_sha256", "header")
        if not isinstance(part, dict) or not all(isinstance(part.get(key), str) for key in texts):
            return False
        tensors = part.get("tensors")
        if not isinstance(tensors, dict) or not all(_is_tensor(value) for value in tensors.values()):
            return False
        names += [part["file"], part["difference"]]
    return len(set(names)) == len(names) and all(NAME.fullmatch(name) for name in names)


def _is_tensor(value: Any) -> bool:
    fields = value if isinstance(value, dict) else {}
    return is_whole(fields.get("covered")) and fields["covered"] >= 0 and isinstance(fields.get("base_sha256"), str)


def _recover_file(
    base: Tensors, difference: Path, target: Path, part: dict[str, Any], progress: Callable[[int], Any]
) -> None:
    """Writes one file of the tuned model.

    Raises:
        UserError: the base is another one, or the file does not become what it was.
    """
    stored = opened(difference, AGAIN, [part["difference"]])
    if set(stored.entries) != set(part["tensors"]):
        raise UserError("the record of the difference is damaged: it names other tensors", str(difference), AGAIN)
    with open(target, "wb") as file:
        write_header(file, part["header"].encode("utf-8"))
        for name, entry in in_file_order(stored.entries):
            covered, wanted = part["tensors"][name]["covered"], part["tensors"][name]["base_sha256"]
            size = entry.end - entry.begin
            if not re.fullmatch("U(8|16|32|64)", entry.dtype) or covered * 8 % BITS[entry.dtype]:
                raise UserError(f"{part['difference']} holds {entry.dtype}, no difference", str(difference), AGAIN)
            has = base.entries.get(name)
            if covered > size or (covered and (has is None or has.end - has.begin < covered)):
                raise _wrong_base(base, f"it has no tensor {quoted(name)} of this size")
            of_base = base.blocks(name, covered) if covered else iter(())
            given = combine(file, stored.blocks(name, size), of_base, covered, entry.dtype, 1, progress)
            if covered and given != wanted:
                raise _wrong_base(base, f"the sha256 of {quoted(name)} is {given}, it should be {wanted}")
    if wrong := damage(target):
        raise UserError(f"the recovered file is damaged: {wrong}", str(difference), AGAIN)
    if (given := sha256_file(target, quiet)) != part["sha256"]:
        what = f"the recovered {target.name} has the sha256 {given}, it should be {part['sha256']}"
        raise UserError(what, str(difference), "check the disk, then fetch difference and base again")


def _wrong_base(base: Tensors, why: str) -> UserError:
    fix = "name the base that the difference was made from, in the same type"
    return UserError(f"this is another base: {why}", str(base.folder), fix)
