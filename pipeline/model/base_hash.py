"""A hash of what a base computes: its weights and its config, wherever it lies and whatever it is called.

An adapter is a change to one set of weights. Its record carries this hash, and it is refused on any other base.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.files import make_folder, read_json, sha256_json, write_json
from pipeline.model.base import Base, cache
from pipeline.progress import bar

# What a config.json says about its writer, not about the model.
VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache")
CHUNK = 1 << 24  # bytes read at once


def base_hash(config: Config, base: Base) -> str:
    """sha256 over all tensors (name, type, shape, bytes) and the config; of shape and seed for random weights.

    How the tensors are spread over files does not matter. Everything is read once; then the digest is kept in the cache
    for as long as the files' sizes and times stay the same.
    """
    if base.folder is None:
        return sha256_json({"geometry": config.model.geometry, "seed": config.train.seed})
    shape = {k: v for k, v in (read_json(base.folder / "config.json") or {}).items() if k not in VOLATILE}
    return sha256_json({"config": shape, "weights": _weights(base.folder)})


def _weights(folder: Path) -> str:
    """One digest over all tensors, from the cache while sizes and times of the files stay the same."""
    index = read_json(folder / "model.safetensors.index.json")
    whole = (folder / "model.safetensors").is_file() or not isinstance(index, dict)
    files = [folder / name for name in (["model.safetensors"] if whole else sorted({*index["weight_map"].values()}))]
    stats: list[Any] = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    notes = cache() / "hashes" / f"{sha256_json(str(folder.resolve()))[:32]}.json"
    before = read_json(notes)
    if isinstance(before, dict) and before.get("files") == stats and isinstance(before.get("weights"), str):
        return before["weights"]
    digests: dict[str, list[Any]] = {}
    with bar(total=sum(size for _, size, _ in stats), what="base: hash", unit="B", unit_scale=True) as progress:
        for path in files:
            digests |= _tensors(path, progress)
    found = sha256_json(digests)
    with contextlib.suppress(OSError, UserError):  # it only saves time
        make_folder(notes.parent)
        write_json(notes, {"files": stats, "weights": found})
    return found


def _tensors(path: Path, progress: Any) -> dict[str, list[Any]]:
    """Type, shape and sha256 of the bytes of each tensor in a safetensors file, by name."""
    found = {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            digest = hashlib.sha256()
            while start < end:
                chunk = file.read(min(CHUNK, end - start))
                digest.update(chunk)
                start += len(chunk) or end  # a file cut off meanwhile
                progress.update(len(chunk))
            found[name] = [entry["dtype"], entry["shape"], digest.hexdigest()]
    return found
