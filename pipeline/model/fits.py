"""Whether a model fits into the free memory, told before it is loaded."""

from __future__ import annotations

import torch

from pipeline.model.memory import free_bytes
from pipeline.model.precision import device
from pipeline.run.files import readable_size
from pipeline.run.free_memory import free_memory_bytes

BYTES = {"bf16": 2.0, "fp16": 2.0, "fp32": 4.0, "nf4": 0.7, "int8": 1.2}  # a parameter; quantised, with their scales
OVERHEAD = 1.1  # for the files in a memory map while they are loaded, and fragmentation
ROOM = 1 << 30  # bytes for the activations and logits of the measurements


def why_too_large(parameters: int, kind: str) -> str:
    """`needs 28.7 GB of memory, 3.2 GB are free`; empty where the model fits.

    Args:
        kind: type of the weights, or how they are quantised.
    """
    needed = int(parameters * BYTES[kind] * OVERHEAD) + ROOM
    free, where = free_memory_bytes(), "memory"
    if device().type == "cuda":
        card = free_bytes(torch.device(device()))
        if card < min(free, needed):
            free, where = card, "memory of the card"
    return "" if needed <= free else f"needs {readable_size(needed)} of {where}, {readable_size(free)} are free"
