"""Hashes of an adapter's tensors before the first step, to detect whether training changed a nonzero start."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from pipeline.run.files import read_json, write_json

FILE = "start.json"


def hashes(tensors: dict[str, Any]) -> dict[str, str]:
    """Hex digest of each tensor's numbers in float32; empty for tensors without storage."""
    return {
        name: hashlib.sha256(t.detach().float().cpu().contiguous().view(torch.uint8).numpy()).hexdigest()
        for name, t in tensors.items()
        if t.device.type != "meta"
    }


def write(folder: Path, start: dict[str, str]) -> None:
    write_json(folder / FILE, start)


def changes(tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
    """For each tensor 1.0 if it differs from its start, else 0.0."""
    initial, current = read_json(folder / FILE) or {}, hashes(tensors)
    return {name: torch.tensor(float(current[name] != initial.get(name))) for name in tensors}
