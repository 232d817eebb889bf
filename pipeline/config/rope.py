"""Checks of `model.rope_scaling`, a mapping as transformers has it in `rope_parameters`, by what it says alone."""

from __future__ import annotations

import math
from typing import Any

from pipeline.run.nearest import closest

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
EXAMPLE = "{rope_type: yarn, factor: 4}"
BETAS = (32, 1)  # beta_fast and beta_slow of transformers
LARGEST = 1e12  # of any number; bases for a million tokens have a rope_theta of 3e9
MOST_POSITIONS = 1 << 24  # as of a base's config.json


def check_rope(value: object) -> object:
    """The mapping with `rope_type`, whose older name is `type`.

    Raises:
        ValueError: no mapping, an unknown type or key, a missing one, or a number that scales nothing.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"expected a table, such as {EXAMPLE}")
    scaling: dict[str, Any] = dict(value)
    if "type" in scaling:
        older = scaling.pop("type")
        if scaling.setdefault("rope_type", older) != older:
            raise ValueError("type is the older name of rope_type, and the two differ; remove type")
    kind = scaling.get("rope_type")
    if not isinstance(kind, str) or kind not in REQUIRED:
        raise ValueError(f"rope_type must be one of {', '.join(REQUIRED)}")
    known = (*ALWAYS, *REQUIRED[kind], *OPTIONAL.get(kind, ()))
    for key in scaling:
        if key not in known:
            near = closest(str(key), known, alike=0.6)
            hint = f"did you mean {near[0]}?" if near else f"its keys are {', '.join(known)}"
            raise ValueError(f"rope_type {kind} has no {key}; {hint}")
    if missing := [key for key in REQUIRED[kind] if key not in scaling]:
        raise ValueError(f"rope_type {kind} needs {' and '.join(missing)}")
    _check_numbers(kind, scaling)
    return scaling


def longer(scaling: dict[str, Any] | None, context: int, longest: int) -> str:
    """What to set so that a model sees rows of `longest` tokens. scaling: `model.rope_scaling`, with which it sees
    `context` tokens."""
    kind, factor = (scaling or {}).get("rope_type", "dynamic"), (scaling or {}).get("factor", 1)
    if kind == "dynamic":  # or none: the context is the base's
        why = "dynamic trains no longer rows; " if scaling else ""
        return f"{why}model.rope_scaling='{{rope_type: yarn, factor: {-(-longest // context)}}}'"
    return f"factor: {math.ceil(longest * factor / context)} in model.rope_scaling"


def _check_numbers(kind: str, scaling: dict[str, Any]) -> None:
    """Raises:
    ValueError: a value is of another kind, or rotates nothing.
    """
    for key, number in scaling.items():
        if key not in ("rope_type", "truncate") and not _is_positive(number):
            raise ValueError(f"{key} must be a number above 0")
        if key not in ("rope_type", "truncate") and number > LARGEST:
            raise ValueError(f"{key} must be at most {LARGEST:,.0f}")
    if not scaling["factor"] > 1:
        raise ValueError("factor must be above 1: the longest row in contexts of the base")
    if not scaling.get("rope_theta", 2) > 1:
        raise ValueError("rope_theta must be above 1, such as 10000; remove it to keep the base's own")
    own = scaling.get("original_max_position_embeddings", 1)
    if not isinstance(own, int) or own > MOST_POSITIONS:
        raise ValueError(f"original_max_position_embeddings must be whole tokens, at most {MOST_POSITIONS:,}")
    if not isinstance(scaling.get("truncate", True), bool):
        raise ValueError("truncate must be true or false")
    if kind == "llama3" and not scaling["high_freq_factor"] > scaling["low_freq_factor"]:
        raise ValueError("high_freq_factor must be above low_freq_factor")
    fast, slow = scaling.get("beta_fast", BETAS[0]), scaling.get("beta_slow", BETAS[1])
    if kind == "yarn" and not fast > slow:
        raise ValueError(f"beta_fast ({fast:g}) must be above beta_slow ({slow:g})")


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
