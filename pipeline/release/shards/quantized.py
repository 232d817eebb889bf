"""The weights of a base as training saw them in 4 or 8 bits, dequantised one tensor at a time."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.release.shards.tensors import Read

LAYERS = ("Linear4bit", "Linear8bitLt")


def dequantized(model: Any, read: Read) -> Read:
    """Reads a quantised layer's weight out of the loaded base, and all else as `read`.

    The numbers are those of transformers' `model.dequantize()`, which needs memory for the whole model.
    """
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    layers = {f"{name}.weight": m for name, m in model.named_modules() if type(m).__name__ in LAYERS}

    def tensor(name: str) -> torch.Tensor:
        if (layer := layers.get(name)) is None:
            return read(name)
        weight: torch.Tensor = dequantize_bnb_weight(layer.weight, getattr(layer, "state", None))
        return weight.detach().cpu()

    return tensor
