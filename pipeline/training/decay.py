"""Which weights `train.weight_decay` pulls towards zero: as in Hugging Face's Trainer, no norm's and no bias.

Trainer goes by names and by layers (transformers trainer.py, `get_decay_parameter_names`); a model's own RMSNorm is
left out only where its name says that it is one. `tests/training/test_decay.py` compares the rule with the installed
transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

LEFT_OUT = re.compile(r"bias|layernorm|rmsnorm|(^|\.|_)norm(\.|$)")  # of names in small letters


def decayed(model: torch.nn.Module, names: Iterable[str]) -> set[str]:
    """Those of the parameters' names that weight decay reaches."""
    norms = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm))
    return {name for name in names if not LEFT_OUT.search(name.lower()) and not name.startswith(norms)}


def groups_of(
    model: torch.nn.Module,
    weights: dict[str, torch.nn.Parameter],
    groups: Sequence[dict[str, Any]],
    weight_decay: float,
) -> list[dict[str, Any]]:
    """The method's parameter groups, each cut in two where weight decay reaches only a part of it.

    Args:
        weights: what is trained, by its names in the model. groups: `params` and `ratio`, as `Method.groups` has them.
    """
    if not weight_decay:
        return [{**group, "weight_decay": 0.0} for group in groups]
    reached = {id(weights[name]) for name in decayed(model, weights)}
    found = []
    for group in groups:
        for strength in (weight_decay, 0.0):
            params = [p for p in group["params"] if (id(p) in reached) == bool(strength)]
            if params:
                found.append({**group, "params": params, "weight_decay": strength})
    return found
