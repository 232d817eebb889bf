"""The optimizer over the trained weights, with weight decay as in Hugging Face's Trainer: not on biases and norms.

Trainer goes by names and by layers (transformers trainer.py, `get_decay_parameter_names`); it leaves out a model's own
RMSNorm only if its name says so. `tests/training/test_optimizer.py` compares with the installed transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch

from pipeline.config.schema import Train
from pipeline.run.errors import UserError, one_line
from pipeline.training.optimizer_state import SMALL

NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(^|\.|_)norm(\.|$)")  # in names in lower case


def build_optimizer(
    model: torch.nn.Module, weights: dict[str, torch.nn.Parameter], groups: Sequence[dict[str, Any]], train: Train
) -> torch.optim.Optimizer:
    """The optimizer that `train.optimizer` names. AdamW is fused on a GPU; Adafactor is transformers', with the fixed
    learning rate that its Trainer has; 8-bit optimizers leave embeddings in 32 bits, as there.

    Args:
        weights, groups: see `parameter_groups`.

    Raises:
        UserError: bitsandbytes has no 8-bit optimizer for this device.
    """
    split, device = parameter_groups(model, weights, groups, train.weight_decay), next(iter(weights.values())).device
    if train.optimizer == "adamw":
        return torch.optim.AdamW(split, lr=train.lr, fused=device.type == "cuda")
    if train.optimizer == "adafactor":
        from transformers import Adafactor

        return cast(torch.optim.Optimizer, Adafactor(split, lr=train.lr, scale_parameter=False, relative_step=False))
    _check_eight_bits(train.optimizer, device)
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager, PagedAdamW8bit

    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.weight.requires_grad:  # kept alive as long as the process
            GlobalOptimManager.get_instance().register_module_override(module, "weight", {"optim_bits": 32})
    paged = train.optimizer == "paged_adamw8bit" and device.type == "cuda"  # a CPU has no other memory
    return cast(torch.optim.Optimizer, (PagedAdamW8bit if paged else AdamW8bit)(split, lr=train.lr))


def _check_eight_bits(name: str, device: torch.device) -> None:
    """Takes a step on a weight of two blocks.

    Raises:
        UserError: it fails.
    """
    from bitsandbytes.optim import AdamW8bit

    weight = torch.nn.Parameter(torch.ones(2, SMALL, device=device))
    weight.grad = torch.ones_like(weight)
    try:
        AdamW8bit([weight], lr=1e-3).step()
        fails = "" if bool((weight < 1).all()) else "its step changes nothing"
    except Exception as error:  # bitsandbytes raises errors of many types
        fails = one_line(error, 200)
    if fails:
        what = f"bitsandbytes has no 8-bit optimizer for this device ({device.type}): {fails}"
        raise UserError(what, "train.optimizer", f"set train.optimizer=adamw instead of {name}")


def embedding_names(model: torch.nn.Module, weights: dict[str, torch.nn.Parameter]) -> list[str]:
    """Names of trained weights that belong to an embedding."""
    own = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return [name for name, weight in weights.items() if id(weight) in own]


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
