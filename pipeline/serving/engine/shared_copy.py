"""A second model on the same weights, for an adapter that cannot be mixed with others in one batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pipeline.model.adapter import WEIGHTS


def shared_copy(base: Any, adapter: Path) -> Any:
    """A copy of the base's modules on the base's tensors; only parameters that the adapter's file replaces are copied.

    Args:
        adapter: folder of the adapter that will be loaded onto the copy.
    """
    with safe_open(adapter / WEIGHTS, "pt") as file:
        replaced = set(file.keys())
    kept = [p for name, p in base.named_parameters(remove_duplicate=False) if name not in replaced]
    kept += list(base.buffers())
    return copy.deepcopy(base, {id(tensor): tensor for tensor in kept})
