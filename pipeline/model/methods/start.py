"""What an adapter was before its first step, for methods whose start is not zero: a hash of each tensor is enough."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipeline.run.files import read_json, write_json

FILE = "start.json"


def hashed(tensors: dict[str, Any]) -> dict[str, str]:
    """Hex digest of each tensor's numbers in float32; empty for tensors without storage."""
    import torch

    return {
        name: hashlib.sha256(t.detach().float().cpu().contiguous().view(torch.uint8).numpy()).hexdigest()
        for name, t in tensors.items()
        if t.device.type != "meta"
    }


def write(folder: Path, start: dict[str, str]) -> None:
    write_json(folder / FILE, start)


def changed(tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Of each tensor: one number, zero when it is what it was at the start."""
    import torch

    start, now = read_json(folder / FILE) or {}, hashed(tensors)
    return {name: torch.tensor(float(now[name] != start.get(name))) for name in tensors}
