"""Checks of `model.rope_scaling`, a mapping as transformers has it in `rope_parameters`, by what it says alone."""

from __future__ import annotations

import math
from typing import Any

# By type: the keys that transformers reads (modeling_rope_utils.py), those that it needs first. Of its further types
# `proportional` and `axial` belong to their models, and `longrope` needs factors that were searched for each model.
REQUIRED = {
    "linear": ("factor",), "dynamic": ("factor",), "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}  # fmt: skip
OPTIONAL = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
}
ALWAYS = ("rope_type", "rope_theta", "original_max_position_embeddings")


def check_rope(value: object) -> object:
    """The mapping with `rope_type`, whose older name is `type`.

    Raises:
        ValueError: an unknown type or key, a missing one, or a number that scales nothing.
    """
    if not isinstance(value, dict):
        return value
    scaling: dict[str, Any] = dict(value)
    if "type" in scaling:
        scaling.setdefault("rope_type", scaling.pop("type"))
    kind = scaling.get("rope_type")
    if kind not in REQUIRED:
        raise ValueError(f"rope_type must be one of {', '.join(REQUIRED)}")
    known = (*ALWAYS, *REQUIRED[kind], *OPTIONAL.get(kind, ()))
    if missing := [key for key in REQUIRED[kind] if key not in scaling]:
        raise ValueError(f"rope_type {kind} needs {' and '.join(missing)}")
    for key, number in scaling.items():
        if key not in known:
            raise ValueError(f"rope_type {kind} has no {key}; its keys are {', '.join(known)}")
        if key not in ("rope_type", "truncate") and not _is_positive(number):
            raise ValueError(f"{key} must be a number above 0")
    if not scaling["factor"] > 1:
        raise ValueError("factor must be above 1: the longest row in contexts of the base")
    if not isinstance(scaling.get("original_max_position_embeddings", 1), int):
        raise ValueError("original_max_position_embeddings must be whole tokens")
    if not isinstance(scaling.get("truncate", True), bool):
        raise ValueError("truncate must be true or false")
    if kind == "llama3" and not scaling["high_freq_factor"] > scaling["low_freq_factor"]:
        raise ValueError("high_freq_factor must be above low_freq_factor")
    return scaling


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
