"""AdamW over the trained weights, with weight decay as in Hugging Face's Trainer: not on biases and norms.

Trainer goes by names and by layers (transformers trainer.py, `get_decay_parameter_names`); it leaves out a model's own
RMSNorm only if its name says so. `tests/training/test_optimizer.py` compares with the installed transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from pipeline.config.schema import Train

NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(^|\.|_)norm(\.|$)")  # in names in lower case


def build_optimizer(
    model: torch.nn.Module, weights: dict[str, torch.nn.Parameter], groups: Sequence[dict[str, Any]], train: Train
) -> torch.optim.AdamW:
    """AdamW, fused on a GPU. weights, groups: see `parameter_groups`."""
    fused = next(iter(weights.values())).device.type == "cuda"
    return torch.optim.AdamW(parameter_groups(model, weights, groups, train.weight_decay), lr=train.lr, fused=fused)


def decayed_names(model: torch.nn.Module, names: Iterable[str]) -> set[str]:
    """The names of parameters that weight decay applies to."""
    norms = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm))
    return {name for name in names if not NOT_DECAYED.search(name.lower()) and not name.startswith(norms)}


def parameter_groups(
    model: torch.nn.Module,
    weights: dict[str, torch.nn.Parameter],
    groups: Sequence[dict[str, Any]],
    weight_decay: float,
) -> list[dict[str, Any]]:
    """The method's parameter groups, each split in two if weight decay applies to a part of it.

    Args:
        weights: trained weights by their names in the model. groups: `params` and `ratio`, from `Method.groups`.
    """
    if not weight_decay:
        return [{**group, "weight_decay": 0.0} for group in groups]
    decayed = {id(weights[name]) for name in decayed_names(model, weights)}
    split = []
    for group in groups:
        for decay in (weight_decay, 0.0):
            params = [p for p in group["params"] if (id(p) in decayed) == bool(decay)]
            if params:
                split.append({**group, "params": params, "weight_decay": decay})
    return split


def take_step(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One step at this learning rate, each group at its own ratio of it; afterwards there are no gradients."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["ratio"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
