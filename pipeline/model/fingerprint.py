"""Which base an adapter belongs to: a hash of what the base computes, wherever it lies and whatever it is called."""

from __future__ import annotations

import json
from typing import Any

from pipeline.config import Config
from pipeline.files import read_json, sha256_json
from pipeline.model.base import Base, weight_files

SAMPLE = 512  # bytes of a tensor, three times
# Of config.json. What else shapes the model shows in the tensors; other keys come and go with the library's version.
SHAPE = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon",
)  # fmt: skip


def fingerprint(config: Config, base: Base) -> str:
    """Sixteen hex digits of a base, the same on every machine and for any cut into files.

    Of each tensor go in its name, type, shape, and some bytes from its beginning, middle and end: 13 GB take a second,
    and training of any kind changes every tensor that it changes nearly everywhere. Random weights go by their shape
    and seed.
    """
    if base.folder is None:
        return sha256_json({"geometry": config.model.geometry, "seed": config.train.seed})[:16]
    found = read_json(base.folder / "config.json") or {}
    tensors: dict[str, Any] = {}
    for name in weight_files(base.folder):
        with open(base.folder / name, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            for tensor, entry in json.loads(file.read(length)).items():
                if tensor != "__metadata__":
                    parts = []
                    begin, end = entry["data_offsets"]
                    for place in (begin, (begin + end) // 2, max(begin, end - SAMPLE)):
                        file.seek(8 + length + place)
                        parts.append(file.read(min(SAMPLE, end - place)).hex())
                    tensors[tensor] = [entry["dtype"], entry["shape"], parts]
    return sha256_json([{key: found.get(key) for key in SHAPE}, tensors])[:16]
